"use strict";

const PERIOD_MS = 2000;

// What was told last.
let latest = null;
let asked = 0;

function present(state) {
  latest = state;
  openAwaited(state.logins);
  showAlarms(state);
  showCredentials(state);
  showKeys(state);
  showTraffic(state.overview.envoy || null);
  showEnvoy(state.overview);
  const { version, started_at } = state.overview;
  render("footer", [version, started_at], () => el("p", {}, "Refresher " + version + ", started ", since(started_at), "."));
  show("locked", false);
  show("shown", true);
  tick();
}

function lock(reason) {
  localStorage.removeItem(SESSION);
  latest = null;
  rendered.clear();
  by("dialog").close();
  for (const id of ["shown", "lost", "summary"]) show(id, false);
  for (const id of ["credentials", "keys", "traffic", "envoy", "alarms-list", "footer", "provider"]) by(id).replaceChildren();
  say(by("locked-reason"), reason || "");
  show("locked-reason", Boolean(reason));
  show("locked", true);
}

function lose() {
  const text = "The refresher does not answer." + (latest
    ? " Shown is how things stood at " + hour(latest.overview.at) + ". It is asked again every two seconds." : " It is asked again every two seconds.");
  say(by("lost"), text);
  show("lost", true);
  by("shown").classList.add("stale");
}

async function update() {
  const turn = ++asked;
  try {
    const state = await ask("/api/state");
    // An answer that was overtaken by a later one is old.
    if (turn !== asked) return;
    ahead = state.overview.at - Date.now() / 1000;
    show("lost", false);
    by("shown").classList.remove("stale");
    present(state);
  } catch (error) {
    if (turn !== asked) return;
    if (error.code === "session_required") lock(null);
    else lose();
  }
}

// The ticket in the address is good for one session, and does not stay in the address.
async function enter() {
  const ticket = location.hash.slice(1);
  if (ticket === "" || ticket === "content") return true;
  history.replaceState(null, "", "/");
  try {
    const { session } = await ask("/api/session", { ticket });
    localStorage.setItem(SESSION, session);
    return true;
  } catch (error) {
    if (localStorage.getItem(SESSION)) return true;
    lock(error.code ? "The address has been used already, or is too old." : "The refresher does not answer.");
    return false;
  }
}

let timer = null;

async function run() {
  clearTimeout(timer);
  if (localStorage.getItem(SESSION)) await update();
  else if (by("locked").hidden) lock(null);
  timer = setTimeout(run, PERIOD_MS);
}

by("new-login").addEventListener("click", askLogin);
by("new-key").addEventListener("click", askKey);
// What was in it may be a key.
by("dialog").addEventListener("close", () => by("dialog").replaceChildren());
addEventListener("hashchange", async () => { if (await enter()) await run(); });
setInterval(tick, 1000);
enter().then(run);
