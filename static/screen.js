/* The live screen in the page: connects templates/_screen.html to the screen gateway through noVNC.

   Every connection takes a fresh one-use ticket; a lost one is taken up again by itself. Close codes and what they
   mean: docs/formats/ticket.md. Runs under a policy without inline code. Whether keys and pointer may reach the
   machine is decided by the gateway; `data-access` only decides what is offered here. */
import RFB from "./vendor/novnc/core/rfb.js";
import keysyms from "./vendor/novnc/core/input/keysymdef.js";

const KEYS = {
  Escape: 0xff1b, Tab: 0xff09, Enter: 0xff0d, Backspace: 0xff08, Delete: 0xffff, Home: 0xff50, End: 0xff57,
  PageUp: 0xff55, PageDown: 0xff56, ArrowLeft: 0xff51, ArrowUp: 0xff52, ArrowRight: 0xff53, ArrowDown: 0xff54,
  F1: 0xffbe, F2: 0xffbf, F3: 0xffc0, F4: 0xffc1, F5: 0xffc2, F6: 0xffc3, F7: 0xffc4, F8: 0xffc5, F9: 0xffc6,
  F10: 0xffc7, F11: 0xffc8, F12: 0xffc9,
};
const MODIFIERS = { Control: [0xffe3, "ControlLeft"], Alt: [0xffe9, "AltLeft"] };
const ZOOMS = [1, 1.25, 1.5, 2, 3, 4];
const FILLER = "_".repeat(40); // something for a tablet's backspace to delete
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15000;
const REFUSALS_MAX = 3; // tickets refused in a row before we stop asking

const SAYS = {
  connecting: "Connecting to the machine…",
  live: "Connected",
  lost: "The connection was lost. Trying again…",
  offline: "This device has no connection. The screen comes back by itself.",
  withdrawn: "This screen is no longer shared with you. Ask the person who shared it.",
  over: "This session has ended and its machine was destroyed.",
  unexpected: "The connection was closed because this browser sent something unexpected. Reload the page.",
  refused: "The screen could not be connected. Reload the page.",
  many: "This screen is already open in several windows. Close one of them, then connect again.",
  signedOut: "You are signed out. Reload the page and sign in again.",
  left: "You left the screen. Click it to go back.",
};
const FINAL = { 4400: "unexpected", 4403: "withdrawn", 4410: "over", 4429: "many" };

export function init(root) {
  if (root.dataset.state) return; // already running
  const part = (name) => root.querySelector(`[data-screen="${name}"]`);
  const view = part("view");
  const picture = part("picture");
  const typing = part("typing");
  const mayAct = root.dataset.access === "control";
  let rfb = null;
  let attempt = 0;
  let refusals = 0;
  let timer = 0;
  let stopped = false;
  let zoom = 0; // index in ZOOMS; 0 shows everything
  let fitsWidth = false;
  let typed = FILLER;
  let composing = false;
  const held = new Set();

  function say(state, text) {
    root.dataset.state = state;
    const status = part("status");
    if (status.textContent !== text) status.textContent = text;
    if (state !== "live") part("sentence").textContent = text;
  }

  // -- connection -------------------------------------------------------------------------------
  async function connect() {
    clearTimeout(timer);
    if (stopped || rfb) return;
    part("again").hidden = true;
    if (root.dataset.state !== "waiting") say("waiting", SAYS.connecting);
    let answer;
    try {
      const reply = await fetch(root.dataset.ticketUrl, {
        method: "POST", headers: { "X-CSRF-Token": root.dataset.csrf, Accept: "application/json" },
        credentials: "same-origin", redirect: "error", cache: "no-store",
      });
      if (reply.status === 401) return stop("signedOut");
      if (reply.status === 403) return stop("refused");
      if (reply.status === 404) return stop("withdrawn");
      if (reply.status === 410) return stop(mayAct ? "over" : "withdrawn");
      if (!reply.ok) throw new Error("no ticket");
      answer = await reply.json();
    } catch {
      return retry();
    }
    if (stopped || rfb || !root.isConnected) return;
    const socket = new WebSocket(answer.url, ["myphr.screen.1", `ticket.${answer.ticket}`]);
    let code = 1006;
    socket.addEventListener("close", (event) => { code = event.code; });
    // A screen can be of any shape: the picture is scaled to the page, the machine is not resized, since others watch it.
    const mine = new RFB(picture, socket, { shared: true });
    rfb = mine;
    mine.scaleViewport = true;
    mine.resizeSession = false;
    mine.viewOnly = !mayAct;
    mine.qualityLevel = 9;
    mine.compressionLevel = 2;
    mine.background = "#101416";
    mine.showDotCursor = true;
    mine.addEventListener("connect", () => {
      attempt = refusals = 0;
      const canvas = picture.querySelector("canvas");
      canvas.tabIndex = 0;
      canvas.setAttribute("role", mayAct ? "application" : "img");
      canvas.setAttribute("aria-label", "Screen of the machine. Control, Alt and Shift together leave it.");
      fit_window();
      say("live", SAYS.live);
      root.dispatchEvent(new CustomEvent("screen:live", { bubbles: true }));
    });
    mine.addEventListener("disconnect", () => {
      if (rfb !== mine) return;
      rfb = null;
      held.clear();
      show_modifiers();
      if (FINAL[code]) return stop(FINAL[code]);
      if (code === 4401 && ++refusals >= REFUSALS_MAX) return stop("refused");
      retry(code === 1012);
    });
  }

  function retry(soon = false) {
    if (stopped) return;
    say("waiting", navigator.onLine === false ? SAYS.offline : SAYS.lost);
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** attempt) * (0.75 + Math.random() / 2);
    attempt += 1;
    part("again").hidden = attempt < 4;
    clearTimeout(timer);
    timer = setTimeout(connect, soon ? 100 + Math.random() * 400 : wait);
  }

  function stop(reason) {
    stopped = reason !== "many";
    rfb = null;
    leave_full();
    show_keyboard(false);
    say("over", SAYS[reason]);
    part("again").hidden = stopped;
    root.dispatchEvent(new CustomEvent("screen:over", { bubbles: true, detail: { reason } }));
  }

  const hurry = () => { if (!rfb && !stopped && root.isConnected) { attempt = 0; connect(); } };
  part("again").addEventListener("click", hurry);
  window.addEventListener("online", hurry);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) hurry(); });
  window.addEventListener("pagehide", () => { if (rfb) rfb.disconnect(); });

  // -- keys -------------------------------------------------------------------------------------
  function send(keysym, code) {
    if (!rfb || !mayAct) return;
    for (const name of held) rfb.sendKey(...MODIFIERS[name], true);
    rfb.sendKey(keysym, code);
    for (const name of held) rfb.sendKey(...MODIFIERS[name], false);
    if (held.size) { held.clear(); show_modifiers(); }
  }

  function show_modifiers() {
    root.querySelectorAll("[data-modifier]").forEach((button) => {
      button.setAttribute("aria-pressed", String(held.has(button.dataset.modifier)));
    });
  }

  function reset_typing() {
    typing.value = typed = FILLER;
    typing.setSelectionRange(FILLER.length, FILLER.length);
  }

  /* What changed in the text is what was typed: right for every on-screen keyboard, word suggestions included. */
  function typing_changed() {
    const now = typing.value;
    let same = 0;
    while (same < now.length && same < typed.length && now[same] === typed[same]) same += 1;
    for (let gone = typed.length - same; gone > 0; gone -= 1) send(KEYS.Backspace, "Backspace");
    for (const character of now.slice(same)) {
      if (character === "\n") send(KEYS.Enter, "Enter");
      else send(keysyms.lookup(character.codePointAt(0)), null);
    }
    typed = now;
    if (!composing && (now.length > 400 || now.length < 10)) reset_typing();
  }

  function show_keyboard(wanted) {
    if (!typing) return;
    part("keyboard").setAttribute("aria-pressed", String(wanted));
    root.querySelector(".screen-keys").hidden = !wanted;
    if (wanted) {
      reset_typing();
      typing.focus({ preventScroll: true }); // in the same tap, or a tablet shows no keyboard
    } else {
      typing.blur();
    }
    fit_window();
  }

  if (typing) {
    typing.addEventListener("input", typing_changed);
    typing.addEventListener("compositionstart", () => { composing = true; });
    typing.addEventListener("compositionend", () => { composing = false; });
    typing.addEventListener("keydown", (event) => {
      if (event.isComposing || event.ctrlKey && event.altKey && event.shiftKey) return;
      const chord = event.ctrlKey || event.altKey || event.metaKey;
      if (event.key in KEYS && event.key !== "Backspace" && event.key !== "Enter") {
        event.preventDefault();
        send(KEYS[event.key], event.code || null);
      } else if (chord && event.key.length === 1) {
        event.preventDefault();
        if (event.ctrlKey) held.add("Control");
        if (event.altKey) held.add("Alt");
        send(keysyms.lookup(event.key.codePointAt(0)), event.code || null);
      }
    });
    part("keyboard").addEventListener("click", () => {
      show_keyboard(part("keyboard").getAttribute("aria-pressed") !== "true");
    });
    root.querySelectorAll("[data-key], [data-modifier]").forEach((button) => {
      // The keyboard of a tablet must not fold away when one of these is tapped.
      button.addEventListener("pointerdown", (event) => event.preventDefault());
      button.addEventListener("click", () => {
        if (button.dataset.key) return send(KEYS[button.dataset.key], button.dataset.key);
        const name = button.dataset.modifier;
        if (!held.delete(name)) held.add(name);
        show_modifiers();
      });
    });
  }

  // -- leaving ----------------------------------------------------------------------------------
  function leave() {
    // noVNC lets go of every key it holds when the window loses focus; the machine must not be left with Ctrl down.
    window.dispatchEvent(new Event("blur"));
    held.clear();
    show_modifiers();
    show_keyboard(false);
    leave_full();
    part("leave").focus();
    if (root.dataset.state === "live") part("status").textContent = SAYS.left;
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey && event.altKey && event.shiftKey) {
      event.preventDefault();
      event.stopPropagation();
      leave();
    }
  }, true);
  part("leave").addEventListener("click", leave);
  view.addEventListener("focusin", () => { if (root.dataset.state === "live") say("live", SAYS.live); });

  // -- size -------------------------------------------------------------------------------------
  /* The picture is as large as its box; a larger box in a view that scrolls is zoom. */
  function lay_out() {
    const canvas = picture.querySelector("canvas");
    const width = view.clientWidth;
    const height = view.clientHeight;
    const factor = ZOOMS[zoom];
    let wide = width * factor;
    let tall = height * factor;
    if (fitsWidth && canvas && canvas.width) tall = Math.max(height, wide * canvas.height / canvas.width);
    const whole = wide <= width + 1 && tall <= height + 1;
    picture.style.width = whole ? "100%" : `${Math.floor(wide)}px`;
    picture.style.height = whole ? "100%" : `${Math.floor(tall)}px`;
    part("move").hidden = whole;
    if (whole) moving(false);
    part("zoom-out").disabled = zoom === 0;
    part("zoom-in").disabled = zoom === ZOOMS.length - 1;
    part("fit").querySelector("span").textContent = fitsWidth ? "Show all" : "Fit width";
  }

  function zoom_to(index) {
    const x = (view.scrollLeft + view.clientWidth / 2) / view.scrollWidth;
    const y = (view.scrollTop + view.clientHeight / 2) / view.scrollHeight;
    zoom = Math.min(Math.max(index, 0), ZOOMS.length - 1);
    lay_out();
    view.scrollTo(x * view.scrollWidth - view.clientWidth / 2, y * view.scrollHeight - view.clientHeight / 2);
  }
  part("zoom-in").addEventListener("click", () => zoom_to(zoom + 1));
  part("zoom-out").addEventListener("click", () => zoom_to(zoom - 1));
  part("fit").addEventListener("click", () => { fitsWidth = !fitsWidth; zoom = 0; lay_out(); });

  const hand = part("hand");
  function moving(wanted) {
    part("move").setAttribute("aria-pressed", String(wanted));
    hand.hidden = !wanted;
    if (wanted) { hand.style.width = picture.style.width; hand.style.height = picture.style.height; }
  }
  part("move").addEventListener("click", () => moving(hand.hidden));
  hand.addEventListener("pointerdown", (event) => hand.setPointerCapture(event.pointerId));
  hand.addEventListener("pointermove", (event) => {
    if (hand.hasPointerCapture(event.pointerId)) view.scrollBy(-event.movementX, -event.movementY);
  });

  /* As tall as the picture wants to be, within the part of the window that is really free: on-screen keyboards and
     browser bars come and go, and a portrait tablet needs no black bands. */
  function fit_window() {
    const free = window.visualViewport ? window.visualViewport.height : window.innerHeight;
    const top = view.getBoundingClientRect().top;
    const above = top - root.getBoundingClientRect().top;
    const keyboardIsUp = window.visualViewport && window.innerHeight - free > 150;
    const below = free - (top + window.scrollY) - 16; // without scrolling
    let wanted = below >= 0.6 * free && !keyboardIsUp ? below : free - above - 8;
    const canvas = picture.querySelector("canvas");
    if (canvas && canvas.width && canvas.height) wanted = Math.min(wanted, view.clientWidth * canvas.height / canvas.width + 2);
    root.style.setProperty("--screen-height", `${Math.max(240, Math.floor(wanted))}px`);
    if (keyboardIsUp) root.scrollIntoView({ block: "start" });
    lay_out();
  }
  new ResizeObserver(() => fit_window()).observe(root.querySelector(".screen-bar")); // the bar wraps, the view moves
  if (window.visualViewport) window.visualViewport.addEventListener("resize", fit_window);
  window.addEventListener("resize", fit_window);
  document.addEventListener("fullscreenchange", () => { show_full(); fit_window(); });

  // -- full screen ------------------------------------------------------------------------------
  const is_full = () => document.fullscreenElement === root || root.classList.contains("fills");
  function show_full() {
    part("full").querySelector("span").textContent = is_full() ? "Smaller" : "Full screen";
  }
  function leave_full() {
    root.classList.remove("fills");
    if (document.fullscreenElement === root) document.exitFullscreen().catch(() => {});
    show_full();
    lay_out();
  }
  part("full").addEventListener("click", async () => {
    if (is_full()) return leave_full();
    try {
      await root.requestFullscreen({ navigationUI: "hide" });
    } catch {
      root.classList.add("fills");
    }
    show_full();
    fit_window();
  });

  // -- begin ------------------------------------------------------------------------------------
  say("waiting", SAYS.connecting);
  fit_window();
  connect();
}

function find(where) {
  const root = where.id === "screen" ? where : where.querySelector("#screen");
  if (root) init(root);
}
find(document);
document.addEventListener("htmx:load", (event) => find(event.target));
