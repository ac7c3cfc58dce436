"use strict";

const REASONS = {
  never_logged_in: "Nobody has logged in yet.",
  invalid_grant: "The provider has ended the login.",
  invalid_client: "The provider does not know this client any more.",
  exchange_unanswered: "A refresh was cut short, and the refresh token may be spent.",
  other_provider: "The stored login is of another provider or client than the settings.",
};

const REFUSALS = {
  ambiguous_path: "A path that can be read in two ways",
  invalid_client_key: "No client key, or a wrong one",
  path_not_allowed: "The key is limited to other paths",
  model_not_allowed: "The key is limited to other models",
  cross_site_request: "From a web page of another site",
  body_too_large: "A larger body than can be held",
  misdirected_request: "For another host",
  rate_limit_exceeded: "Above the client's requests a minute",
  concurrency_limit_exceeded: "Above the client's requests at a time",
  refresher_unavailable: "Before the first token",
  login_required: "No login",
  token_expired: "The token had expired",
  token_rejected: "The API refused the token",
};

// How a credential stands: a class, and words.
function standing(status) {
  if (status.state === "login_required") return ["bad", "Login required"];
  if (status.state === "unavailable") return ["warn", "Unavailable"];
  if (status.state !== "ready") return ["warn", status.state || "Unknown"];
  if (status.alarm) return ["warn", "Ready, with an alarm"];
  return status.oauth_reauth_required ? ["warn", "Login needed soon"] : ["ok", "Ready"];
}

function pill([kind, words]) {
  return el("span", { class: "pill " + kind }, words);
}

function code(text) {
  return el("code", {}, text);
}

// What somebody has to do, the worst first.
function alarms(state) {
  const { health, envoy, workers } = state.overview;
  const found = [];
  for (const [name, status] of Object.entries(health.credentials)) {
    const reason = REASONS[status.reason] || null;
    if (status.state === "login_required") {
      found.push(["bad", name + ": " + (reason || "A login is required."), "Log in again, below or with", login(name)]);
    } else if (status.state === "unavailable") {
      found.push(["warn", name + ": The token has expired, and the provider does not renew it now.",
        "It is tried again by itself, at most five minutes apart.", null]);
    } else if (status.oauth_reauth_required) {
      found.push(["warn", name + ": The login has ended; the token serves until it expires.",
        "Log in before that, below or with", login(name)]);
    }
    if (status.alarm) {
      found.push(["bad", name + ": " + status.alarm, "The token serves from memory. Make room, or mend the permissions, before the refresher ends.", null]);
    }
  }
  for (const alarm of new Set([health.client_keys_alarm, state.client_keys.problem])) {
    if (alarm) found.push(["bad", "Client keys: " + alarm, "Mend the file, or make the keys anew.", null]);
  }
  if (health.config_alarm) {
    found.push(["bad", "Settings: " + health.config_alarm, "The earlier ones stay in force. This says what is wrong:", "refresher config check"]);
  }
  if (envoy && envoy.state !== "LIVE") {
    found.push(["warn", "Envoy is " + envoy.state + ".", "Its log is in the state directory, in envoy/envoy.log.", null]);
  }
  const behind = workers.filter((worker) => worker.generation < health.generation && now() - worker.seen_at > 40);
  if (behind.length > 0) {
    found.push(["warn", plural(behind.length, "worker has", "workers have") + " not asked for the present token.",
      "An Envoy that has ended is forgotten after a while.", null]);
  }
  return found.sort((a, b) => (a[0] === b[0] ? 0 : a[0] === "bad" ? -1 : 1));
}

function login(name) {
  return name === "default" ? "refresher login" : "refresher login --credential " + name;
}

function showAlarms(state) {
  const found = alarms(state);
  show("alarms", found.length > 0);
  render("alarms-list", found, () => found.map(([kind, what, remedy, command]) =>
    el("li", { class: "notice " + kind }, el("strong", {}, what), " ", remedy, command ? [" ", code(command), "."] : null)));
  const { credentials, provider, api_base } = state.overview.health;
  const standings = Object.values(credentials).map((status) => standing(status)[0]);
  const served = standings.some((kind) => kind !== "bad") && Object.values(credentials).some((status) => status.state === "ready");
  const summary = by("summary");
  const kind = !served ? "bad" : found.length > 0 ? "warn" : "ok";
  summary.className = "pill " + kind;
  summary.hidden = false;
  say(summary, { ok: "All is well", warn: "Needs attention", bad: "Not serving" }[kind]);
  say(by("provider"), provider + " \u2192 " + api_base);
}

function showCredentials(state) {
  const credentials = { ...state.overview.health.credentials };
  const logins = new Map(state.logins.map((login) => [login.credential, login]));
  for (const login of state.logins) {
    credentials[login.credential] ??= { state: "login_required", reason: "never_logged_in", oauth_refresh: {} };
  }
  const seen = [...dismissed];
  render("credentials", [credentials, state.logins, seen], () => Object.entries(credentials).map(
    ([name, status]) => credential(name, status, logins.get(name))));
}

function credential(name, status, attempt) {
  const refresh = status.oauth_refresh;
  const facts = [];
  const fact = (term, ...words) => facts.push(el("dt", {}, term), el("dd", {}, ...words));
  if (status.state === "login_required") fact("Why", REASONS[status.reason] || status.reason || "unknown");
  if (refresh.last_refresh_at) {
    const failure = refresh.last_refresh_error_class;
    const outcome = failure ? " \u2013 failed (" + failure + ")" : " \u2013 " + (refresh.last_refresh_status || "unknown");
    fact("Last refresh", since(refresh.last_refresh_at), outcome);
  } else {
    fact("Last refresh", "none since the start");
  }
  if (status.next_refresh_at) fact("Next refresh", until(status.next_refresh_at, "due"));
  else if (status.oauth_reauth_required) fact("Next refresh", "none: the login has ended");
  else if (status.state === "ready") fact("Next refresh", "unknown");
  fact("Refreshes", count(refresh.refresh_success_count || 0) + " done, " + count(refresh.refresh_failure_count || 0) + " failed");
  if (status.generation) fact("Generation", el("span", { class: "code" }, String(status.generation)));
  const live = attempt && LIVE.includes(attempt.stage);
  const begin = (kind, words, primary) => el("button", {
    type: "button", class: primary ? "main" : "", "data-focus": kind + " " + name, "data-login": kind,
    "aria-label": words + ", as " + name, click: () => beginLogin(name, kind) }, words);
  const urgent = status.state === "login_required" || status.oauth_reauth_required;
  return el("article", { class: "card", "data-credential": name, "aria-label": "Login " + name },
    el("div", { class: "top" }, el("h3", {}, name), pill(standing(status))),
    life(status),
    el("dl", {}, ...facts),
    live ? null : el("p", { class: "actions" },
      begin("browser", "Log in by browser", urgent), begin("device", "Log in by code", false)),
    attempt ? progress(attempt) : null);
}

function life(status) {
  if (!status.expires_at) return null;
  const refresh = status.oauth_refresh;
  const from = status.issued_at || (refresh.last_refresh_status === "success" ? refresh.last_refresh_at : null);
  const ends = el("p", { class: "ends" }, el("span", {}, "Token ", el("strong", {}, until(status.expires_at, "has expired", "expires in "))));
  if (!from || from >= status.expires_at) return ends;
  const bar = el("div", { class: "life", role: "progressbar", "aria-label": "Life of the token", "aria-valuemin": "0",
    "aria-valuemax": "100", "data-from": from, "data-to": status.expires_at }, el("div", { class: "fill" }));
  const due = status.next_refresh_at ? (status.expires_at - status.next_refresh_at) / (status.expires_at - from) : 0;
  if (due > 0 && due < 1) {
    const mark = el("div", { class: "due", title: "Next refresh" });
    mark.style.left = due * 100 + "%";
    bar.append(mark);
  }
  ends.append(el("span", {}, "of " + span(status.expires_at - from)));
  return el("div", {}, bar, ends);
}

function showKeys(state) {
  const { rows, required } = state.client_keys;
  render("keys", state.client_keys, () => {
    if (rows.length === 0) {
      return el("p", { class: "card quiet" }, required
        ? "There are no client keys, and one is required: every request is refused."
        : "There are none, and none is needed: any program of this machine may send requests. Once one is made, every request needs one.");
    }
    const last = new Map(rows.map((row, place) => [row.name, place]));
    return el("div", { class: "card flush" }, el("ul", { class: "rows" },
      ...rows.map((row, place) => keyRow(row, last.get(row.name) === place))));
  });
}

function keyRow(row, newest) {
  const states = { valid: ["ok", "Valid"], not_yet: ["warn", "Not yet"], expired: ["", "Expired"] };
  const chips = [];
  for (const path of row.paths) chips.push(["path ", path]);
  for (const model of row.models) chips.push(["model ", model]);
  if (row.requests_per_minute) chips.push([count(row.requests_per_minute), " a minute"]);
  if (row.concurrency) chips.push([count(row.concurrency), " at a time"]);
  if (row.credential !== "default") chips.push(["login ", row.credential]);
  const times = [];
  if (row.not_before && row.not_before > now()) times.push(["holds ", until(row.not_before)]);
  times.push(row.not_after ? [row.state === "expired" ? "" : "ends ", until(row.not_after, "has ended")] : ["does not expire"]);
  if (row.made_at) times.push(["made ", since(row.made_at)]);
  if (row.subject_alt_name) times.push(["certificate " + row.subject_alt_name]);
  if (row.place !== "store") times.push(["stands in the " + (row.place === "configuration" ? "configuration" : "environment")]);
  const words = times.flatMap((part, place) => (place === 0 ? part : [" \u00b7 ", ...part]));
  const action = (kind, text, act, danger) => el("button", { type: "button", class: danger ? "danger" : "",
    "data-focus": kind + " " + row.name, "data-key": kind, "aria-label": text + " the key of " + row.name, click: act }, text);
  const own = row.place === "store" && newest;
  return el("li", { "data-name": row.name },
    el("div", { class: "key" },
      el("h3", {}, row.name, pill(states[row.state] || ["", row.state])),
      el("p", { class: "quiet small" }, ...words),
      el("ul", { class: "chips", "aria-label": "What it is good for" },
        ...(chips.length ? chips : [["every path and model"]]).map((chip) => el("li", {}, ...chip)))),
    own ? el("p", { class: "actions" },
      row.subject_alt_name ? null : action("rotate", "Rotate", () => askRotate(row)),
      action("revoke", "Revoke", () => askRevoke(row), true)) : null);
}

function table(caption, head, rows) {
  const cell = (value, place) => place === 0 ? el("th", { scope: "row" }, value)
    : el("td", { class: typeof value === "number" ? "number" : "" }, typeof value === "number" ? count(value) : value);
  const numeric = (place) => rows.length > 0 && typeof rows[0][place] === "number";
  const classes = (title, place) => (numeric(place) ? "number " : "") + (title.length <= 12 ? "short" : "");
  return el("table", {}, el("caption", { class: "hidden" }, caption),
    el("thead", {}, el("tr", {}, ...head.map((title, place) =>
      el("th", { scope: "col", class: classes(title, place) }, title)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map(cell)))));
}

function cause(kind) {
  const words = REFUSALS[kind];
  return words ? el("span", {}, words, el("span", { class: "quiet small code under" }, kind)) : code(kind);
}

function showTraffic(envoy) {
  render("traffic", envoy ? [envoy.requests, envoy.refusals, envoy.tokens] : null, () => {
    if (!envoy) return el("p", { class: "quiet" }, "Unknown: Envoy's admin interface is not known here, or does not answer.");
    const clients = Object.entries(envoy.requests);
    const classes = [...new Set(clients.flatMap(([, counts]) => Object.keys(counts)))].sort();
    const name = (client) => (client === "(none)" ? "without a key" : client);
    const parts = [];
    if (clients.length > 0) {
      parts.push(table("Requests by client and status", ["Client", ...classes, "All"], clients.map(([client, counts]) =>
        [name(client), ...classes.map((kind) => counts[kind] || 0), Object.values(counts).reduce((a, b) => a + b, 0)])));
    } else {
      parts.push(el("p", { class: "quiet" }, "No request has been answered yet."));
    }
    const refusals = Object.entries(envoy.refusals).filter(([, number]) => number > 0);
    if (refusals.length > 0) {
      parts.push(el("h4", {}, "Refused"), table("Refusals by cause", ["Cause", "Requests"],
        refusals.map(([kind, number]) => [cause(kind), number])));
    }
    const tokens = Object.entries(envoy.tokens).flatMap(([client, models]) => Object.entries(models).map(
      ([model, kinds]) => [name(client), model, kinds.prompt || 0, kinds.completion || 0]));
    if (tokens.length > 0) {
      parts.push(el("h4", {}, "Tokens used"), table("Tokens by client and model", ["Client", "Model", "Prompt", "Completion"], tokens));
    }
    return parts;
  });
}

function showEnvoy(overview) {
  const { envoy, workers, health } = overview;
  render("envoy", [envoy && [envoy.version, envoy.state, envoy.active_requests], workers, health.generation], () => {
    const facts = [el("dt", {}, "Bundle"), el("dd", {}, el("span", { class: "code" }, String(health.generation)))];
    if (envoy) {
      facts.unshift(el("dt", {}, "Version"), el("dd", {}, envoy.version, " ", pill([envoy.state === "LIVE" ? "ok" : "warn", envoy.state.toLowerCase()])),
        el("dt", {}, "Started"), el("dd", {}, since(overview.at - envoy.uptime_seconds)),
        el("dt", {}, "Under way"), el("dd", {}, plural(envoy.active_requests, "request", "requests")));
    } else {
      facts.unshift(el("dt", {}, "State"), el("dd", {}, "unknown"));
    }
    const rows = workers.map((worker) => [code(worker.id.slice(0, 8)),
      worker.generation === health.generation ? "current" : worker.generation < health.generation ? "older" : "newer",
      worker.lag_ms === undefined ? "\u2013" : count(worker.lag_ms) + " ms", since(worker.seen_at)]);
    return [el("dl", {}, ...facts), el("h4", {}, "Workers"), rows.length > 0
      ? table("Workers and the generation that they serve", ["Worker", "Token", "Had it after", "Asked"], rows)
      : el("p", { class: "quiet" }, "Unknown: no worker has told of itself.")];
  });
}
