"use strict";

// Whatever comes from the refresher becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function by(id) {
  return document.getElementById(id);
}

// An element with attributes, listeners (functions) and children; what is null is left out.
function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// A link to the provider. Only to an address that a browser loads a page from.
function link(address, attributes, text) {
  let target = null;
  try {
    const url = new URL(address);
    if (["https:", "http:"].includes(url.protocol)) target = url.href;
  } catch {
    target = null;
  }
  if (target === null) return el("span", {}, text);
  return el("a", { ...attributes, href: target, target: "_blank", rel: "noopener noreferrer" }, text);
}

// The refresher's clock may differ from the browser's.
let ahead = 0;

function now() {
  return Date.now() / 1000 + ahead;
}

// A time in words, of which the two largest units count.
function span(seconds) {
  const total = Math.max(0, Math.floor(seconds));
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => total >= size);
  if (first < 0) return "0 s";
  const parts = [];
  let rest = total;
  for (const [name, size] of units.slice(first, first + 2)) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(count + " " + name);
  }
  return parts.join(" ");
}

function moment(unix) {
  return new Date(unix * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function hour(unix) {
  return new Date(unix * 1000).toLocaleTimeString(undefined, { timeStyle: "medium" });
}

// Times that go on by themselves; see `tick`.
function until(unix, past, before) {
  return el("time", { "data-until": unix, "data-past": past, "data-before": before, title: moment(unix) });
}

function since(unix) {
  return el("time", { "data-since": unix, title: moment(unix) });
}

function count(number) {
  return Number(number).toLocaleString("en-US").replaceAll(",", "\u202f");
}

function plural(number, one, many) {
  return count(number) + " " + (number === 1 ? one : many);
}

function tick() {
  const at = now();
  for (const element of document.querySelectorAll("[data-until]")) {
    const left = Number(element.dataset.until) - at;
    say(element, left > 0 ? (element.dataset.before || "in ") + span(left) : element.dataset.past || "now");
  }
  for (const element of document.querySelectorAll("[data-since]")) {
    const past = at - Number(element.dataset.since);
    say(element, past < 2 ? "just now" : span(past) + " ago");
  }
  for (const element of document.querySelectorAll("[data-from]")) {
    const [from, to] = [Number(element.dataset.from), Number(element.dataset.to)];
    const left = Math.min(1, Math.max(0, (to - at) / Math.max(1, to - from)));
    element.setAttribute("aria-valuenow", Math.round(left * 100));
    element.setAttribute("aria-valuetext", to > at ? span(to - at) + " left" : "expired");
    element.classList.toggle("warn", left < 0.2);
    element.firstElementChild.style.width = left * 100 + "%";
    element.firstElementChild.hidden = left === 0;
  }
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Tells a screen reader.
function announce(text) {
  say(by("said"), text);
}

const rendered = new Map();

// Rebuilds an element when what it shows has changed, and puts the focus back where it was.
function render(id, shown, build) {
  const text = JSON.stringify(shown);
  if (rendered.get(id) === text) return;
  rendered.set(id, text);
  const place = by(id);
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
  place.replaceChildren(...[build()].flat().filter((child) => child !== null));
  if (focused) {
    for (const element of place.querySelectorAll("[data-focus]")) {
      if (element.dataset.focus === focused) element.focus();
    }
  }
}

function show(id, shown) {
  by(id).hidden = !shown;
}

// The session: of this origin, port included, unlike a cookie.
const SESSION = "torchbearer-session";

async function ask(path, body) {
  const headers = { "x-torchbearer-session": localStorage.getItem(SESSION) || "" };
  const options = { headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(20000) };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    options.method = "POST";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const json = await answer.json();
  if (answer.ok) return json;
  const error = new Error(json.error.message);
  error.code = json.error.code;
  error.field = json.error.field;
  throw error;
}
