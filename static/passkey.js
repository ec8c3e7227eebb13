/* Passkeys: hands the server's question to the browser and the browser's answer to the form (WebAuthn level 2).
   Used on the second step of signing in ("get") and where a passkey is set up ("create"). */
"use strict";
(() => {
  const form = document.querySelector("form[data-passkey]");
  if (!form) return;
  const part = (name) => form.querySelector(`[data-passkey-${name}]`);
  const button = form.querySelector("button[type=submit]");
  if (!window.PublicKeyCredential || !navigator.credentials) return;
  part("missing").hidden = true;
  const place = form.dataset.place;
  if (place && location.hostname !== place && !location.hostname.endsWith(`.${place}`)) {
    part("elsewhere").hidden = false;
    return;
  }
  button.hidden = false;

  const bytes = (text) => {
    const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(plain, (character) => character.charCodeAt(0));
  };
  const text = (buffer) => {
    let plain = "";
    for (const byte of new Uint8Array(buffer)) plain += String.fromCharCode(byte);
    return btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  };

  function question() {
    const options = JSON.parse(form.dataset.options);
    options.challenge = bytes(options.challenge);
    if (options.user) options.user.id = bytes(options.user.id);
    for (const list of [options.allowCredentials, options.excludeCredentials]) {
      for (const entry of list || []) entry.id = bytes(entry.id);
    }
    return { publicKey: options };
  }

  function answer(credential) {
    const response = { clientDataJSON: text(credential.response.clientDataJSON) };
    for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
      if (credential.response[name]) response[name] = text(credential.response[name]);
    }
    return JSON.stringify({ id: credential.id, rawId: text(credential.rawId), type: credential.type, response,
      clientExtensionResults: credential.getClientExtensionResults() });
  }

  form.addEventListener("submit", async (event) => {
    if (form.elements.credential.value) return;
    event.preventDefault();
    event.stopPropagation();
    part("failed").hidden = true;
    button.disabled = true;
    try {
      const credential = await navigator.credentials[form.dataset.passkey](question());
      form.elements.credential.value = answer(credential);
      form.submit();
    } catch {
      part("failed").hidden = false;
      button.disabled = false;
    }
  });
  window.addEventListener("pageshow", () => { form.elements.credential.value = ""; button.disabled = false; });
})();
