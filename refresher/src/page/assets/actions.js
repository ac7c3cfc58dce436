"use strict";

const LIVE = ["starting", "browser", "device"];

const ENDS = {
  success: ["ok", "Logged in. The new token is served from now on."],
  denied: ["bad", "The login was denied. Nothing has changed."],
  expired: ["warn", "Nobody approved the login in time. Nothing has changed."],
  cancelled: ["", "The login was cancelled. Nothing has changed."],
};

// Ends of logins that need not be shown any more.
const dismissed = new Set();

// Logins whose address is to be opened once it is known.
const awaited = new Set();

async function beginLogin(name, kind) {
  try {
    if (kind === "browser") awaited.add(name);
    const { logins } = await ask("/api/logins", { credential: name, kind });
    present({ ...latest, logins });
    announce("A login of " + name + " has begun.");
    await update();
  } catch (error) {
    awaited.delete(name);
    complain("The login was not begun", error);
  }
}

async function cancelLogin(name) {
  try {
    const { logins } = await ask("/api/logins/cancel", { credential: name });
    present({ ...latest, logins });
  } catch (error) {
    complain("The login was not cancelled", error);
  }
}

// Opens the provider's page as soon as its address is known. Where the browser does not allow that,
// there is the link.
function openAwaited(logins) {
  for (const login of logins) {
    if (login.stage === "browser" && awaited.delete(login.credential)) {
      const url = new URL(login.url);
      if (["https:", "http:"].includes(url.protocol)) window.open(url.href, "_blank", "noopener,noreferrer");
    }
    if (!LIVE.includes(login.stage)) awaited.delete(login.credential);
  }
}

// How far a login has come.
function progress(login) {
  const mark = login.credential + " " + login.begun_at;
  const name = login.credential;
  const cancel = el("button", { type: "button", "data-focus": "cancel " + name, "data-login": "cancel",
    "aria-label": "Cancel the login of " + name, click: () => cancelLogin(name) }, "Cancel");
  const note = login.note ? el("p", { class: "small" }, login.note) : null;
  const left = login.expires_at ? el("p", { class: "quiet small" }, "Ends by itself ", until(login.expires_at), ".") : null;
  const box = (...children) => el("div", { class: "login", "data-stage": login.stage }, ...children);
  if (login.stage === "starting") {
    return box(el("p", { class: "quiet" }, "Asking the provider\u2026"), el("p", { class: "actions" }, cancel));
  }
  if (login.stage === "browser") {
    return box(el("p", {}, "Approve the login in the tab that was opened."), note, left, el("p", { class: "actions" },
      link(login.url, { class: "button main", "data-focus": "open " + name }, "Open the login page"), cancel));
  }
  if (login.stage === "device") {
    const complete = login.verification_uri_complete;
    const words = el("div", {},
      el("p", { class: "small" }, "Open ", link(login.verification_uri, {}, login.verification_uri), " in any browser and enter"),
      el("code", { class: "user-code" }, login.user_code), left);
    return box(el("div", { class: "device" }, words, login.qr ? drawn(login.qr) : null), note,
      el("p", { class: "actions" }, complete ? link(complete, { class: "button main", "data-focus": "open " + name }, "Open with the code") : null, cancel));
  }
  if (dismissed.has(mark)) return null;
  const [kind, words] = ENDS[login.stage] || ["bad", "The login failed: " + (login.reason || login.stage)];
  const close = el("button", { type: "button", class: "plain", "data-focus": "close " + name, "data-login": "close",
    "aria-label": "Close the message about the login of " + name,
    click: () => { dismissed.add(mark); present(latest); } }, "Close");
  return box(el("p", { class: "notice " + kind, role: "status" }, words, login.note ? " " + login.note : ""),
    el("p", { class: "actions" }, close));
}

function drawn(code) {
  const box = "0 0 " + code.size + " " + code.size;
  return svg("svg", { class: "qr", viewBox: box, role: "img", "aria-label": "QR code of the address", "shape-rendering": "crispEdges" },
    svg("path", { d: code.path }));
}

// One dialog for everything that is asked or told.
function dialog(title, ...content) {
  const place = by("dialog");
  place.replaceChildren(el("h2", { id: "dialog-title" }, title), ...content.filter((part) => part !== null));
  if (!place.open) place.showModal();
  tick();
}

function closeDialog() {
  by("dialog").close();
}

function closing(text, primary) {
  return el("button", { type: "button", class: primary ? "main" : "", click: closeDialog }, text);
}

function complain(title, error) {
  dialog(title, el("p", { role: "alert" }, error.message), el("p", { class: "actions" }, closing("Close", true)));
}

function field(id, title, input, hint) {
  input.id = "field-" + id;
  input.setAttribute("aria-describedby", "hint-" + id);
  return el("div", { class: "field" }, el("label", { for: input.id }, title), input,
    el("p", { class: "hint", id: "hint-" + id }, hint), el("p", { class: "wrong", id: "wrong-" + id, role: "alert", hidden: "" }));
}

// A form in the dialog; what is wrong is said beside the field.
function form(title, fields, verb, danger, send) {
  const button = el("button", { type: "submit", class: danger ? "danger main" : "main" }, verb);
  const general = el("p", { class: "notice bad", role: "alert", hidden: "" });
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    general.hidden = true;
    for (const wrong of by("dialog").querySelectorAll(".wrong")) wrong.hidden = true;
    for (const input of by("dialog").querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    try {
      await send();
      await update();
    } catch (error) {
      const wrong = error.field ? by("wrong-" + error.field) : null;
      say(wrong || general, error.message);
      (wrong || general).hidden = false;
      const input = wrong && by("field-" + error.field);
      if (input) {
        input.setAttribute("aria-invalid", "true");
        input.focus();
      }
    } finally {
      button.disabled = false;
    }
  };
  dialog(title, el("form", { submit, novalidate: "" }, general, ...fields, el("p", { class: "actions" }, closing("Cancel", false), button)));
}

function lines(input) {
  return input.value.split("\n").map((line) => line.trim()).filter((line) => line !== "");
}

function number(input) {
  if (input.value === "") return 0;
  const value = Number(input.value);
  if (Number.isInteger(value) && value > 0 && value < 2 ** 32) return value;
  const error = new Error("accepted: a whole number from 1 on");
  error.field = input.id.replace("field-", "");
  throw error;
}

function askKey() {
  const text = (placeholder) => el("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off", placeholder });
  const amount = () => el("input", { type: "number", min: "1", step: "1", inputmode: "numeric" });
  const area = (placeholder) => el("textarea", { rows: "2", spellcheck: "false", placeholder });
  const [name, expires, paths, models] = [text("alice"), text("30d"), area("/v1/"), area("grok-4*")];
  const [rpm, concurrency] = [amount(), amount()];
  const names = Object.keys(latest.overview.health.credentials);
  const credential = el("select", {}, ...names.map((known) => el("option", {}, known)));
  if (names.includes("default")) credential.value = "default";
  form("Make a client key", [
    latest.client_keys.required ? null : el("p", { class: "notice warn" },
      "From the first key on, every request needs one, those of this machine too."),
    el("div", { class: "pair" },
      field("name", "Name", name, "Of the client, in log and metrics"),
      field("expires", "Holds for", expires, "Such as 12h or 30d; empty: until revoked")),
    field("paths", "Paths", paths, "What they begin with, one a line; empty: all"),
    field("models", "Models", models, "One a line, * at the end for the rest; empty: all"),
    el("div", { class: "pair" },
      field("requests_per_minute", "Requests a minute", rpm, "Empty: no limit"),
      field("concurrency", "Requests at a time", concurrency, "Empty: no limit")),
    field("credential", "Login", credential, "Whose token its requests get"),
    el("p", { class: "wrong", id: "wrong-restrictions", role: "alert", hidden: "" }),
  ].filter((part) => part !== null), "Make the key", false, async () => {
    const made = await ask("/api/keys/add", {
      name: name.value.trim(), expires: expires.value.trim(), paths: lines(paths), models: lines(models),
      requests_per_minute: number(rpm), concurrency: number(concurrency), credential: credential.value });
    reveal(made);
  });
}

function askRotate(row) {
  const overlap = el("select", {}, ...[["1h", "one hour"], ["24h", "a day"], ["7d", "a week"], ["0", "no longer: it ends at once"]]
    .map(([value, words]) => el("option", { value }, words)));
  form("Another key for " + row.name, [
    el("p", {}, "The new key has the same restrictions and length of life."),
    field("overlap", "The present key holds for", overlap, "After a leak, end it at once"),
  ], "Make the new key", false, async () => reveal(await ask("/api/keys/rotate", { name: row.name, overlap: overlap.value })));
}

function askRevoke(row) {
  form("Revoke " + row.name + "?", [
    el("p", {}, "All keys of ", el("strong", {}, row.name), " end at once, and cannot be had back. Its requests get 401."),
  ], "Revoke", true, async () => {
    await ask("/api/keys/revoke", { name: row.name });
    closeDialog();
    announce("The keys of " + row.name + " are revoked.");
  });
}

// The one time that a key is shown.
function reveal(made) {
  const shown = el("code", { id: "new-key-text" }, made.key);
  const copy = el("button", { type: "button", id: "copy-key", click: async () => {
    try {
      await navigator.clipboard.writeText(shown.textContent);
      say(copy, "Copied");
    } catch {
      getSelection().selectAllChildren(shown);
      say(copy, "Selected");
    }
  } }, "Copy");
  dialog("The key of " + made.row.name,
    el("p", {}, "This is the only time that it is shown: just its digest is kept."),
    el("p", { class: "secret" }, shown, copy),
    el("p", { class: "quiet small" }, "The client sends it as ", code("Authorization: Bearer KEY"), " or ", code("X-Proxy-Api-Key: KEY"), "."),
    made.alarm ? el("p", { class: "notice bad" }, "It is stored, but not in force: " + made.alarm) : null,
    el("p", { class: "actions" }, closing("I have it", true)));
}

function askLogin() {
  const name = el("input", { type: "text", autocomplete: "off", spellcheck: "false", autocapitalize: "off", placeholder: "work" });
  const kind = el("select", {}, el("option", { value: "browser" }, "in the browser on this machine"),
    el("option", { value: "device" }, "with a code, in any browser"));
  form("Add a login", [
    field("credential", "Name", name, "Another login beside the present ones; a client key says whose token it gets"),
    field("kind", "How", kind, "The provider asks for your approval"),
  ], "Log in", false, async () => {
    const credential = name.value.trim();
    if (kind.value === "browser") awaited.add(credential);
    await ask("/api/logins", { credential, kind: kind.value });
    closeDialog();
  });
}
