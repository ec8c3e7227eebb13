/* Small conveniences on every page. Each page works without this file; buttons that need it start hidden. */
"use strict";
(() => {
  const each = (root, selector, act) => {
    if (root.matches && root.matches(selector)) act(root);
    root.querySelectorAll(selector).forEach(act);
  };

  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone && !document.cookie.includes(`myphr-zone=${zone}`)) {
    document.cookie = `myphr-zone=${zone}; Path=/; SameSite=Lax; Max-Age=31536000`; // so that the server says our time
  }

  const FORMS = {
    full: { day: "numeric", month: "long", year: "numeric", hour: "2-digit", minute: "2-digit" },
    day: { day: "numeric", month: "long", year: "numeric" },
    time: { hour: "2-digit", minute: "2-digit" },
  };

  function prepare(root) {
    each(root, "time[data-local]", (time) => {
      const at = new Date(time.dateTime);
      if (!Number.isNaN(at.getTime())) time.textContent = at.toLocaleString("en-GB", FORMS[time.dataset.local] || FORMS.full);
    });
    each(root, "[data-show-password]", (button) => { button.hidden = false; });
    each(root, "[data-print]", (button) => { button.hidden = false; });
    each(root, "[data-copy]", (button) => { button.hidden = !navigator.clipboard; });
    each(root, "[data-left-seconds]", count_down);
    // What was found while typing has an address of its own: going back, or loading anew, shows it again.
    each(root, "[data-address]", (part) => { history.replaceState(null, "", part.dataset.address); });
  }

  /* Time left, told in whole minutes; a screen reader hears it only when the words change. */
  function count_down(element) {
    const end = Date.now() + Number(element.dataset.leftSeconds) * 1000;
    const tell = () => {
      const minutes = Math.max(0, Math.ceil((end - Date.now()) / 60000));
      const hours = Math.floor(minutes / 60);
      const words = hours ? `${hours} h ${minutes % 60} min` : `${minutes} min`;
      if (element.textContent !== words) element.textContent = words;
      if (element.isConnected && minutes > 0) setTimeout(tell, 5000);
    };
    tell();
  }

  document.addEventListener("click", (event) => {
    const show = event.target.closest("[data-show-password]");
    if (show) {
      const input = document.getElementById(show.dataset.showPassword);
      const visible = input.type === "password";
      input.type = visible ? "text" : "password";
      show.textContent = visible ? "Hide" : "Show";
      show.setAttribute("aria-pressed", String(visible));
      input.focus();
    }
    if (event.target.closest("[data-print]")) window.print();
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      navigator.clipboard.writeText(document.getElementById(copy.dataset.copy).textContent.trim()).then(
        () => { copy.querySelector("span").textContent = "Copied"; },
        () => { copy.querySelector("span").textContent = "Copying is not allowed here"; },
      );
    }
  });

  /* A second press while the first is under way would send the form twice. */
  document.addEventListener("submit", (event) => {
    if (event.target.dataset.sent) { event.preventDefault(); return; }
    if (!event.target.hasAttribute("data-hx-post")) event.target.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", () => {
    document.querySelectorAll("form[data-sent]").forEach((form) => { delete form.dataset.sent; });
  });

  /* Keys and touches on the live screen reach no page of ours: tell the portal now and then that somebody is here,
     or it would sign them out in the middle of their work. */
  function tell_presence() {
    const element = document.querySelector("[data-activity]");
    if (!element) return;
    const token = JSON.parse(document.body.dataset.hxHeaders)["X-CSRF-Token"];
    let told = Date.now();
    const seen = () => {
      if (Date.now() - told < 240000) return;
      told = Date.now();
      fetch(element.dataset.activity, { method: "POST", headers: { "X-CSRF-Token": token } }).catch(() => {});
    };
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) {
      window.addEventListener(kind, seen, { capture: true, passive: true });
    }
  }

  /* A share link carries its secret behind the "#", which no server and no log ever sees. It goes into the form. */
  function take_link_secret() {
    const field = document.getElementById("link-secret");
    if (!field) return;
    const secret = location.hash.slice(1);
    if (secret) {
      field.value = secret;
      history.replaceState(null, "", location.pathname);
    }
    document.getElementById("link-incomplete").hidden = Boolean(field.value);
    document.getElementById("link-form").hidden = !field.value;
  }

  document.addEventListener("htmx:load", (event) => prepare(event.detail.elt));
  prepare(document);
  take_link_secret();
  tell_presence();
})();
