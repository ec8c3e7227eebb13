/* Puts files into the record: drop or pick files, a folder, a zip or the image of a disc. Small files go many in one
   request, which says of each what became of it; larger ones over tus 1.0, each resumable. What is kept for a resume stays in this tab only, under a hash, as file names tell too much: the
   address of an upload, and which files of a choice are stored already, until all are tried. */
"use strict";
(() => {
  const drop = document.getElementById("drop");
  if (!drop || !window.tus || !window.tus.isSupported) return;

  const AT_ONCE = 4; // requests
  const SMALL_BYTES_MAX = 1024 * 1024, TOGETHER_BYTES_MAX = 8 * 1024 * 1024, TOGETHER_FILES_MAX = 100;
  const WITH_CREATION_BYTES_MAX = 4 * 1024 * 1024; // small files go in one request; larger ones must be able to resume
  const SHOWN_FAILED_MAX = 20;
  const RETRY_MS = [0, 500, 1000, 2000, 4000, 8000, 15000, 30000, 30000];
  const LITTER = /^(\.DS_Store|Thumbs\.db|desktop\.ini|\._.*)$/i; // written by the computer, not by the hospital

  const part = (name) => document.getElementById(`upload-${name}`);
  const hint_words = part("hint").textContent;
  const jobs = []; // {file, path, sent, state: waiting | sending | done | failed, alone, upload, why, lost, again}
  const handed = document.getElementById("upload-done"); // on a practice's page: what was handed over, on screen only
  let spoken = 0, refreshed = 0, refreshing = false, stale = false, later = 0, lock = null, drawing = 0;

  const tab_storage = {
    _key: (print) => `upload:${print}:`,
    async findAllUploads() { return []; },
    async findUploadsByFingerprint(print) {
      const found = [];
      for (let i = 0; i < sessionStorage.length; i += 1) {
        const key = sessionStorage.key(i);
        if (key.startsWith(this._key(print))) found.push({ ...JSON.parse(sessionStorage.getItem(key)), urlStorageKey: key });
      }
      return found;
    },
    async removeUpload(key) { sessionStorage.removeItem(key); },
    async addUpload(print, upload) {
      const key = this._key(print) + Math.random().toString(36).slice(2);
      const { size, creationTime, uploadUrl } = upload; // not the metadata: it holds the file's name
      try { sessionStorage.setItem(key, JSON.stringify({ size, creationTime, uploadUrl, metadata: {} })); } catch { return undefined; }
      return key;
    },
  };

  // After a reload the same folder is chosen again: what of it was stored is not sent twice. Forgotten once all is tried.
  const stored = {
    _key: (print) => `stored:${print}`,
    has(print) { return print !== null && sessionStorage.getItem(this._key(print)) !== null; },
    add(print) {
      if (print === null) return;
      try { sessionStorage.setItem(this._key(print), "1"); } catch { /* full: it is sent again, and found to be there */ }
    },
    clear() {
      for (const key of Object.keys(sessionStorage)) if (key.startsWith("stored:")) sessionStorage.removeItem(key);
    },
  };

  async function fingerprint(file, path) {
    if (!window.crypto || !crypto.subtle) return null; // plain http on another host: no resume after a reload
    const where = `${drop.dataset.endpoint}|${drop.dataset.owner || ""}`; // somebody else may sign in in this tab
    const text = new TextEncoder().encode(`${where}|${path}|${file.size}|${file.lastModified}`);
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
    return Array.from(hash.slice(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  const size_words = (bytes) => {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    let unit = 0;
    while (bytes >= 1000 && unit < 4) { bytes /= 1000; unit += 1; }
    return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
  };
  const count_words = (n) => `${n.toLocaleString("en")} ${n === 1 ? "file" : "files"}`;

  // -- what the server said, in words ---------------------------------------------------------------
  async function reason(error, file) {
    const answer = error && error.originalResponse;
    if (!answer && !await is_readable(file)) return "It could not be read. If it is on a disc, the disc may be damaged.";
    if (!answer) return line_words();
    return words_of(answer.getStatus(), answer.getBody());
  }

  function line_words() {
    return navigator.onLine === false ? "You are offline. It goes on when you are back." : "The connection was lost.";
  }

  function words_of(status, body) {
    if (status === 401 && !handed) return "You are signed out. Sign in again, then put this file in once more.";
    const text = (body || "").trim();
    return text && text.length < 200 && !text.startsWith("<") ? text : "The portal could not take this file.";
  }

  async function is_readable(file) {
    try {
      const step = 4 * 1024 * 1024;
      for (const from of file.size > step ? [0, file.size - step] : [0]) await file.slice(from, from + step).arrayBuffer();
      return true;
    } catch { return false; }
  }

  // -- sending ----------------------------------------------------------------------------------------
  async function send(job) {
    job.state = "sending";
    job.why = "";
    job.print = await fingerprint(job.file, job.path);
    if (stored.has(job.print)) { finish(job); return; }
    const upload = job.upload = new tus.Upload(job.file, {
      endpoint: drop.dataset.endpoint,
      metadata: { filename: job.file.name, relativePath: job.path, filetype: job.file.type || "application/octet-stream" },
      uploadDataDuringCreation: job.file.size <= WITH_CREATION_BYTES_MAX,
      retryDelays: RETRY_MS,
      removeFingerprintOnSuccess: true,
      urlStorage: tab_storage,
      fingerprint: async () => job.print,
      onShouldRetry: (error) => may_pass(error.originalResponse ? error.originalResponse.getStatus() : 0),
      onProgress(sent) { job.sent = sent; draw(); },
      onAfterResponse(_request, answer) { if (answer.getHeader("MyPHR-Duplicate") === "yes") job.again = true; },
      onSuccess() { finish(job); },
      async onError(error) {
        job.why = await reason(error, job.file);
        job.state = "failed";
        job.lost = !error.originalResponse;
        next();
      },
    });
    upload.findPreviousUploads().then((earlier) => {
      if (earlier.length) upload.resumeFromPreviousUpload(earlier[0]);
      upload.start();
    });
  }

  const may_pass = (status) => status === 0 || status === 409 || status === 423 || status === 429 || (status >= 500 && status !== 507);

  /* The small ones among those that wait, as many as go in one request. */
  function small_ones() {
    const found = [];
    let size = 0;
    for (const job of jobs) {
      if (job.state !== "waiting" || job.alone || job.file.size > SMALL_BYTES_MAX) continue;
      if (found.length === TOGETHER_FILES_MAX || size + job.file.size > TOGETHER_BYTES_MAX) break;
      found.push(job);
      size += job.file.size;
    }
    return found;
  }

  async function send_together(group) {
    for (const job of group) {
      job.state = "sending";
      job.why = "";
    }
    const prints = await Promise.all(group.map((job) => fingerprint(job.file, job.path)));
    group.forEach((job, place) => { job.print = prints[place]; });
    for (const job of group.filter((one) => stored.has(one.print))) done(job);
    const left = group.filter((job) => job.state === "sending");
    if (left.length) await ask_together(left);
    next();
  }

  async function ask_together(group) {
    const told = group.map(({ file, path }) => ({ name: file.name, path, size: file.size }));
    const description = new TextEncoder().encode(JSON.stringify(told));
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, description.length);
    const body = new Blob([length, description, ...group.map((job) => job.file)]);
    let answer = null;
    for (const wait of RETRY_MS) {
      await new Promise((go_on) => setTimeout(go_on, wait));
      const is_first = answer === null;
      answer = await post_together(body, group, 4 + description.length);
      if (answer.status === 200) { settle(group, JSON.parse(answer.text), is_first); return; }
      if (!may_pass(answer.status)) break;
      if (answer.status === 0 && await take_out_unreadable(group)) return;
    }
    const why = answer.status ? words_of(answer.status, answer.text) : line_words();
    for (const job of group) Object.assign(job, { state: "failed", why, lost: !answer.status });
  }

  /* One file of a damaged disc breaks the whole request: it goes by itself, which tells why, and the others once more. */
  async function take_out_unreadable(group) {
    const readable = [];
    for (const job of group) readable.push(await is_readable(job.file));
    if (readable.every(Boolean)) return false;
    group.forEach((job, place) => Object.assign(job, { state: "waiting", sent: 0, alone: !readable[place] }));
    return true;
  }

  function post_together(body, group, ahead) {
    return new Promise((give) => {
      const request = new XMLHttpRequest(); // fetch tells nothing of how far it is
      request.open("POST", `${drop.dataset.endpoint}/together`);
      request.setRequestHeader("Content-Type", "application/vnd.myphr.files");
      request.setRequestHeader("Tus-Resumable", "1.0.0");
      request.upload.addEventListener("progress", (event) => {
        let left = event.loaded - ahead;
        for (const job of group) {
          job.sent = Math.max(0, Math.min(job.file.size, left));
          left -= job.file.size;
        }
        draw();
      });
      request.addEventListener("loadend", () => give({ status: request.status, text: request.responseText }));
      request.send(body);
    });
  }

  function settle(group, outcomes, is_first) {
    group.forEach((job, place) => {
      const outcome = outcomes[place];
      job.again = outcome.again && is_first; // else perhaps only the answer was lost, and it came a moment ago
      if (outcome.stored) done(job); else Object.assign(job, { state: "failed", why: outcome.why });
    });
  }

  function finish(job) {
    done(job);
    next();
  }

  function done(job) {
    job.state = "done";
    job.sent = job.file.size;
    job.upload = null;
    stored.add(job.print);
    name_handed(job.path);
  }

  function name_handed(path) {
    if (!handed) return;
    part("handed").hidden = false;
    handed.append(Object.assign(document.createElement("li"), { textContent: path }));
  }

  function next() {
    let sending = new Set(jobs.filter((job) => job.state === "sending").map((job) => job.together)).size;
    for (const job of jobs) {
      if (sending >= AT_ONCE) break;
      if (job.state !== "waiting") continue;
      const group = job.alone || job.file.size > SMALL_BYTES_MAX ? [job] : small_ones();
      for (const one of group) one.together = group;
      if (group.length > 1) send_together(group); else send(job);
      sending += 1;
    }
    if (sending === 0) stored.clear(); // over: a file that is deleted by now may be wanted again
    refresh_record(sending === 0);
    keep_awake(sending > 0);
    draw();
  }

  function add(files) {
    const fresh = files.filter(({ file }) => !LITTER.test(file.name));
    if (!fresh.length) return;
    if (jobs.every((job) => job.state === "done")) jobs.length = 0;
    for (const { file, path } of fresh) jobs.push({ file, path, sent: 0, state: "waiting", why: "" });
    part("progress").hidden = false;
    next();
  }

  // -- showing ----------------------------------------------------------------------------------------
  function draw() {
    if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; draw_now(); });
  }

  function line(name, words) {
    const item = document.createElement("li");
    const state = Object.assign(document.createElement("span"), { textContent: words });
    item.append(Object.assign(document.createElement("span"), { className: "name", textContent: name }), state);
    return item;
  }

  /* One line a request: a hundred small files that go together are one. */
  function sending_row(group) {
    const more = group.length > 1 ? ` and ${count_words(group.length - 1)} more` : "";
    const size = group.reduce((sum, job) => sum + job.file.size, 0);
    const share = size ? Math.floor((100 * group.reduce((sum, job) => sum + job.sent, 0)) / size) : 0;
    const item = line(group[0].path + more, `${share} %`);
    const bar = Object.assign(document.createElement("progress"), { max: 100, value: share });
    bar.setAttribute("aria-label", group[0].path + more);
    item.append(bar);
    return item;
  }

  function failed_row(job) {
    const item = line(job.path, "not stored");
    item.classList.add("failed");
    const why = Object.assign(document.createElement("span"), { textContent: job.why });
    const again = Object.assign(document.createElement("button"), { type: "button", className: "second", textContent: "Try again" });
    again.setAttribute("aria-label", `Try again: ${job.path}`);
    again.addEventListener("click", () => { job.state = "waiting"; next(); });
    item.append(why, again);
    return item;
  }

  /* "2,000 files stored, 3 you had already, 1 could not be stored" */
  function summary(done, failed, total) {
    const again = done.filter((job) => job.again).length;
    const had = again ? `, ${again.toLocaleString("en")} you had already` : "";
    if (failed.length) return `${count_words(done.length - again)} stored${had}, ${failed.length.toLocaleString("en")} could not be stored`;
    if (again) return `${count_words(done.length - again)} stored${had}`;
    return `All stored: ${count_words(done.length)}, ${size_words(total)}`;
  }

  function draw_now() {
    const done = jobs.filter((job) => job.state === "done");
    const failed = jobs.filter((job) => job.state === "failed");
    const sending = jobs.filter((job) => job.state === "sending");
    const total = jobs.reduce((sum, job) => sum + job.file.size, 0);
    const sent = jobs.reduce((sum, job) => sum + Math.min(job.sent, job.file.size), 0);
    const over = !sending.length && !jobs.some((job) => job.state === "waiting");
    let words = `${done.length.toLocaleString("en")} of ${count_words(jobs.length)} stored, ${size_words(sent)} of ${size_words(total)}`;
    if (over) words = summary(done, failed, total);
    part("count").textContent = words;
    part("all").max = Math.max(1, total + jobs.length); // each file counts one byte more, so that empty ones show too
    part("all").value = sent + done.length;
    const focused = document.activeElement && document.activeElement.closest("#upload-list");
    const requests = Array.from(new Set(sending.map((job) => job.together)));
    if (!focused || over) part("list").replaceChildren(...requests.map(sending_row), ...failed.slice(0, SHOWN_FAILED_MAX).map(failed_row));
    part("retry-all").hidden = failed.length < 2;
    part("hint").hidden = over;
    part("hint").textContent = navigator.onLine === false ? line_words() : hint_words;
    part("heading").textContent = over ? (failed.length ? "Not everything is stored" : "Done") : drop.dataset.busy || "Storing your files";
    if (over || Date.now() - spoken > 10000) { part("status").textContent = words; spoken = Date.now(); }
  }

  /* One refresh at a time; what was stored meanwhile is shown by one more at the end. (htmx forgets a queued refresh
     when the part that asked for it is swapped away.) */
  function refresh_record(over) {
    if (handed) return;
    stale = true;
    if (refreshing) return;
    const wait = refreshed + 3000 - Date.now();
    if (!over && wait > 0) {
      later = later || setTimeout(() => { later = 0; if (stale) refresh_record(false); }, wait);
      return;
    }
    stale = false;
    refreshing = true;
    refreshed = Date.now();
    const again = () => {
      refreshing = false;
      if (stale && !jobs.some((job) => job.state === "sending")) refresh_record(true);
    };
    htmx.ajax("GET", document.getElementById("record-list").dataset.hxGet, { target: "#record-list", swap: "outerHTML" }).then(again, again);
  }

  async function keep_awake(wanted) {
    // A tablet that falls asleep stops the upload.
    try {
      if (wanted && !lock && navigator.wakeLock) lock = await navigator.wakeLock.request("screen");
      if (!wanted && lock) { await lock.release(); lock = null; }
    } catch { lock = null; }
  }

  // -- dropping and picking -----------------------------------------------------------------------------
  async function walk(entry, path, found) {
    if (entry.isFile) {
      const file = await new Promise((give, fail) => entry.file(give, fail));
      found.push({ file, path: path + entry.name });
      return;
    }
    const reader = entry.createReader();
    for (;;) { // a reader gives at most 100 entries at a time
      const batch = await new Promise((give, fail) => reader.readEntries(give, fail));
      if (!batch.length) return;
      for (const child of batch) await walk(child, `${path}${entry.name}/`, found);
    }
  }

  async function dropped(transfer) {
    const entries = Array.from(transfer.items || [], (item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
    const plain = Array.from(transfer.files || [], (file) => ({ file, path: file.name }));
    if (!entries.length) { add(plain); return; }
    const found = [];
    for (const entry of entries) await walk(entry, "", found);
    add(found);
  }

  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", (event) => { if (!drop.contains(event.relatedTarget)) drop.classList.remove("over"); });
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    dropped(event.dataTransfer).catch(() => { part("status").textContent = "These files could not be read."; });
  });
  // A file dropped beside the field must not replace the page.
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => { if (!drop.contains(event.target)) event.preventDefault(); });

  for (const kind of ["files", "folder"]) {
    const input = part(`pick-${kind}`);
    const button = part(`choose-${kind}`);
    button.disabled = false; // until now a press would have done nothing
    button.hidden = kind === "folder" && !("webkitdirectory" in input);
    button.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      add(Array.from(input.files, (file) => ({ file, path: file.webkitRelativePath || file.name })));
      input.value = "";
    });
  }
  part("retry-all").addEventListener("click", () => {
    for (const job of jobs) if (job.state === "failed") job.state = "waiting";
    next();
  });
  window.addEventListener("offline", draw);
  window.addEventListener("online", () => {
    for (const job of jobs) if (job.state === "failed" && job.lost) job.state = "waiting";
    next();
  });
  window.addEventListener("beforeunload", (event) => {
    if (jobs.some((job) => job.state === "sending" || job.state === "waiting")) event.preventDefault();
  });
})();
