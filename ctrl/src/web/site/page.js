"use strict";
// The page gets one picture a second from /live, of the part that it shows, and draws it. What others named (services,
// errors, events) is set as text and never as markup.

const $ = (id) => document.getElementById(id);
const PAGE = 100;
const EVENTS = 1000;
const view = { tab: "services", filter: "", sort: "file", reverse: false, from: 0, service: null };
const seen = { event: null, events: [], points: { at: [], packets: [], bits: [], sessions: [], drops: [], live: [] } };
let now = null, before = null, stream = null, held = false, chosen = 0, retry = null, heard = 0;

// ---- words and numbers

function short(value, unit = "") {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  const steps = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, letter] of steps) {
    if (value >= size) return (value / size).toPrecision(3) + " " + letter + unit;
  }
  const text = Number.isInteger(value) ? String(value) : value.toFixed(value < 10 ? 1 : 0);
  return unit ? text + " " + unit : text;
}

const whole = (value) => (value === null || value === undefined ? "" : Number(value).toLocaleString("en"));
const clock = (text) => (text ? text.replace("T", " ").replace(/\.\d+Z$/, "Z") : "");

function span(seconds) {
  const [d, h, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (d) return d + " d " + h + " h";
  if (h) return h + " h " + m + " min";
  return m ? m + " min " + Math.floor(seconds % 60) + " s" : Math.floor(seconds) + " s";
}

const KIND = { ready: "good", up: "good", protected: "warn", full: "bad", draining: "warn", down: "bad", unready: "bad",
  checking: "warn", unreachable: "bad", inhibited: "warn", sorry: "warn", error: "bad", warn: "warn" };

// A number of sessions of both tables: of IPv4, and with an IPv6 address.
const families = (one, key) => whole(one[key] - one[key + "_ipv6"]) + " + " + whole(one[key + "_ipv6"]) + " IPv6";

// A rate from two counters; none until there are two pictures.
function rate(new_, old) {
  if (!before || old === undefined || new_ === undefined) return null;
  return Math.max(0, new_ - old) * 1000 / Math.max(1, now.time - before.time);
}

// ---- drawing

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function set(node, text, className = "") {
  if (node.textContent !== text) node.textContent = text;
  if (node.className !== className) node.className = className;
}

// Draws rows into a table, and touches only what is other than it was: {key, goes, cells: [{text, kind, title, bar}]}.
function fill(table, titles, rows) {
  const [head, body] = [table.tHead, table.tBodies[0]];
  const names = titles.map((title) => title[0]).join("|");
  if (head.dataset.names !== names) {
    head.dataset.names = names;
    const line = element("tr");
    for (const [name, kind, sort] of titles) {
      const cell = element("th", kind);
      if (sort) {
        const button = element("button", "", name);
        button.type = "button";
        button.addEventListener("click", () => order(sort));
        button.dataset.sort = sort;
        cell.append(button);
      } else cell.textContent = name;
      line.append(cell);
    }
    head.replaceChildren(line);
  }
  for (const button of head.querySelectorAll("button")) {
    const name = titles.find((title) => title[2] === button.dataset.sort)[0];
    const mark = view.sort !== button.dataset.sort ? "" : view.reverse ? " \u25b4" : " \u25be";
    set(button, name + mark);
  }
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, at) => {
    const line = body.rows[at] || body.insertRow();
    if (line.dataset.key !== row.key) line.dataset.key = row.key;
    if (row.goes) line.dataset.goes = row.goes; else delete line.dataset.goes;
    row.cells.forEach((cell, place) => {
      const node = line.cells[place] || line.insertCell();
      const kind = [titles[place][1], cell.kind].filter(Boolean).join(" ");
      if (cell.bar !== undefined) {
        let bar = node.querySelector("progress");
        if (!bar) {
          bar = element("progress");
          bar.max = 1;
          node.replaceChildren(bar, " ", element("span"));
        }
        bar.value = cell.bar;
        set(node.lastChild, cell.text);
      } else set(node, cell.text, kind);
      if ((cell.title || "") !== node.title) node.title = cell.title || "";
    });
    while (line.cells.length > row.cells.length) line.deleteCell(-1);
  });
}

const plain = (text, kind, title) => ({ text: text === null || text === undefined ? "" : String(text), kind, title });

function mark() {
  const table = document.querySelector("main > section.here table");
  const lines = table ? [...table.tBodies[0].rows] : [];
  chosen = Math.max(0, Math.min(chosen, lines.length - 1));
  lines.forEach((line, at) => line.classList.toggle("chosen", at === chosen && Boolean(line.dataset.goes)));
  return lines[chosen];
}

const TILES = [
  ["packets", "packets/s", (value) => short(value)],
  ["bits", "bit/s received", (value) => short(value)],
  ["sessions", "new sessions/s", (value) => short(value)],
  ["live", "sessions", (value) => whole(value)],
  ["drops", "drops/s", (value) => short(value)],
];

function tiles() {
  const root = $("tiles");
  if (!root.children.length) {
    for (const [name, title] of TILES) {
      const tile = element("div", "tile");
      tile.dataset.name = name;
      const line = element("div");
      line.append(element("span", "", title), element("span", "most"));
      tile.append(line, element("b"), element("canvas"));
      root.append(tile);
    }
  }
  for (const [name, , text] of TILES) {
    const tile = root.querySelector(`[data-name="${name}"]`);
    const values = seen.points[name];
    const last = values.length ? values[values.length - 1] : null;
    let most = 0;
    for (const value of values) if (value > most) most = value;
    set(tile.querySelector("b"), last === null ? "" : text(last));
    // Each family has a table of its own.
    const room = name === "live" && now.status ? "of " + families(now.status, "session_capacity") : "hour's most " + short(most);
    set(tile.querySelector(".most"), room, "most");
    chart(tile.querySelector("canvas"), seen.points.at, values, most);
  }
}

// An hour up to now; of the seconds of one pixel the largest is drawn.
function chart(canvas, times, values, most) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
  if (!width) return;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark");
  const columns = new Float64Array(width);
  const end = now.time, hour = 3600000;
  for (let at = 0; at < values.length; at++) {
    const x = Math.floor((1 - (end - times[at]) / hour) * (width - 1));
    if (x >= 0 && x < width && values[at] > columns[x]) columns[x] = values[at];
  }
  for (let x = 0; x < width; x++) {
    if (columns[x] > 0) {
      const tall = Math.max(1, columns[x] / (most || 1) * (height - 2));
      pen.fillRect(x, height - tall, 1, tall);
    }
  }
}

function states() {
  const root = $("states");
  for (const [name, count] of now.services.states) {
    let badge = root.querySelector(`[data-state="${name}"]`);
    if (!badge) {
      badge = element("button");
      badge.type = "button";
      badge.dataset.state = name;
      badge.addEventListener("click", () => search(name));
      root.append(badge);
    }
    set(badge, whole(count) + " " + name, "badge " + (count ? KIND[name] : "zero"));
  }
}

function head() {
  const status = now.status;
  if (status) {
    set($("about"), `${status.version}, ${status.dpdk}, up ${span(status.uptime_s)}, ` +
      `configuration ${status.applied} of ${status.generation}`);
    document.title = (now.services.states.some(([name, count]) => count && KIND[name] === "bad") ? "! " : "") + "Sluice";
    const lines = [...status.warnings, ...status.protected.map((name) => name + ": protected: so many servers are down that all are used"),
      ...status.switched, ...status.draining.map((name) => name + ": removed, and still has sessions")];
    const root = $("warnings");
    while (root.children.length > lines.length) root.lastChild.remove();
    lines.forEach((line, at) => set(root.children[at] || root.appendChild(element("p")), line));
  }
}

function services() {
  const titles = [["service", "", "name"], ["state", "", "state"], ["listens on", ""], ["how", ""],
    ["servers up", "num", "up"], ["sessions", "num", "sessions"], ["new/s", "num", "new"], ["packets/s", "num", "packets"],
    ["bit/s in", "num", "bits_in"], ["bit/s out", "num", "bits_out"], ["why", ""]];
  const rows = now.services.items.map((one) => ({
    key: one.name, goes: "#service/" + encodeURIComponent(one.name),
    cells: [plain(one.name), plain(one.state, KIND[one.state]), plain(one.listen + " " + one.protocol),
      plain(one.forward + " " + one.scheduler), plain(one.up + " of " + one.servers, one.up < one.servers ? "warn" : ""),
      plain(whole(one.sessions)), plain(short(one.new)), plain(short(one.packets)), plain(short(one.bits_in)),
      plain(short(one.bits_out)), plain(one.reason, "soft")],
  }));
  fill($("service-table"), titles, rows);
  const { from, found, all } = now.services;
  const to = from + rows.length;
  const of = found === all ? whole(all) : whole(found) + " found, of " + whole(all);
  set($("range"), rows.length ? `${whole(from + 1)} to ${whole(to)} of ${of}` : `none of ${whole(all)}`);
  $("back").disabled = from === 0;
  $("on").disabled = to >= found;
}

const answers = (check) => (check.recent || []).map((one) => (one.error ? "\u2717" : "\u2713")).join("");

function service() {
  const one = now.service;
  const name = view.service;
  if (one === undefined) return;
  if (one === null) {
    set($("service-title"), name);
    set($("service-text"), "There is no such service now.");
    fill($("server-table"), [["server", ""]], []);
    return;
  }
  set($("service-title"), `${one.name}: ${one.state}`, KIND[one.state]);
  const tiers = one.tiers.map((tier) => `${tier.name} ${tier.healthy} of ${tier.servers} up, ${Math.round(tier.share * 100)} %`);
  const refused = Object.entries(one.refused).filter(([, count]) => count > 0).map(([why, count]) => `${why} ${whole(count)}`);
  set($("service-text"), [one.reason, `${one.listen} ${one.protocol}, ${one.forward}, ${one.scheduler}`,
    tiers.length > 1 ? "tiers: " + tiers.join("; ") : "", one.switch ? `switched to ${one.switch.to} for ${one.switch.seconds} s more` : "",
    one.local_addresses.length ? "local addresses " + one.local_addresses.join(", ") : "",
    refused.length ? "refused: " + refused.join(", ") : ""].filter(Boolean).join(" \u00b7 "));
  const old = before && before.service && before.service.name === one.name
    ? new Map(before.service.servers.map((server) => [server.address, server])) : new Map();
  const titles = [["server", ""], ["state", ""], ["since", ""], ["weight", "num"], ["tier", ""], ["active", "num"], ["inactive", "num"],
    ["new/s", "num"], ["bit/s in", "num"], ["bit/s out", "num"], ["connect", "num"], ["last answers", "answers"], ["what was wrong", ""]];
  const found = one.servers.filter((server) => !view.filter || (server.address + " " + server.state).toLowerCase().includes(view.filter.toLowerCase()));
  fill($("server-table"), titles, found.map((server) => {
    const check = server.check || {}, past = old.get(server.address) || {};
    const wrong = check.error || (check.recent || []).map((answer) => answer.error).filter(Boolean).pop() || check.load_error;
    const per = (key) => rate(server[key], past[key]);
    return { key: server.address, cells: [plain(server.address), plain(server.state, KIND[server.state]), plain(clock(check.since)),
      plain(server.effective_weight), plain([server.tier, server.zone].filter(Boolean).join(" ")),
      plain(whole(server.sessions_active)), plain(whole(server.sessions_inactive)), plain(short(per("sessions_created"))),
      plain(short(per("bytes_in") === null ? null : per("bytes_in") * 8)), plain(short(per("bytes_out") === null ? null : per("bytes_out") * 8)),
      plain(server.connect_ms === null ? "" : server.connect_ms.toFixed(1) + " ms"),
      plain(answers(check), "", (check.recent || []).map((answer) => clock(answer.time) + " " + (answer.error || "good, " + answer.took_us + " \u00b5s")).join("\n")),
      plain(wrong, "soft")] };
  }));
  const own = seen.events.filter((event) => (event.service || "").split(",").includes(name)).slice(-20).reverse();
  fill($("service-events"), EVENT_TITLES, own.map(eventRow));
}

function machine() {
  if (now.workers) {
    const old = new Map(((before && before.workers) || { items: [] }).items.map((worker) => [worker.id, worker]));
    const titles = [["worker", "num"], ["core", "num"], ["busy", ""], ["packets/s", "num"], ["sessions", "num"], ["drops/s", "num"],
      ["handed over/s", "num"]];
    fill($("worker-table"), titles, now.workers.items.map((worker) => {
      const past = old.get(worker.id) || {};
      return { key: String(worker.id), cells: [plain(worker.id), plain(worker.core), { text: Math.round(worker.busy_ratio * 100) + " %", bar: worker.busy_ratio },
        plain(short(rate(worker.rx_packets, past.rx_packets))), plain(families(worker, "sessions") + " of " + families(worker, "session_capacity")),
        plain(short(rate(worker.dropped, past.dropped))), plain(short(rate(worker.handed_over, past.handed_over)))] };
    }));
  }
  if (now.ports) {
    const old = new Map(((before && before.ports) || { items: [] }).items.map((port) => [port.name, port]));
    const titles = [["port", ""], ["link", ""], ["device", ""], ["addresses", ""], ["packets/s in", "num"], ["packets/s out", "num"],
      ["bit/s in", "num"], ["bit/s out", "num"], ["missed", "num"], ["errors", "num"], ["no buffer", "num"], ["replies find their worker", ""]];
    fill($("port-table"), titles, now.ports.items.map((port) => {
      const past = old.get(port.name) || {};
      const bits = (key) => { const bytes = rate(port[key], past[key]); return bytes === null ? null : bytes * 8; };
      const speed = port.speed_mbps ? " " + short(port.speed_mbps * 1e6, "bit/s") : "";
      return { key: port.name, cells: [plain(port.name), plain(port.link + speed, { up: "good", down: "bad" }[port.link]),
        plain(port.device + " " + port.driver), plain(port.addresses.join(" ")),
        plain(short(rate(port.rx_packets, past.rx_packets))), plain(short(rate(port.tx_packets, past.tx_packets))),
        plain(short(bits("rx_bytes"))), plain(short(bits("tx_bytes"))), plain(whole(port.rx_missed), port.rx_missed ? "warn" : ""),
        plain(whole(port.rx_errors + port.tx_errors)), plain(whole(port.rx_no_buffer)), plain(port.steering, "soft")] };
    }));
  }
}

function drops() {
  if (!now.drops) return;
  const titles = [["reason", ""], ["packets", "num"], ["a second", "num"], ["what it means", ""], ["what to do", ""]];
  const past = (before && before.drops) || {};
  const wanted = view.filter.toLowerCase();
  const rows = Object.entries(now.drops).filter(([name, count]) => count > 0 || wanted)
    .map(([name, count]) => ({ name, count, meaning: meanings[name] || ["", ""] }))
    .filter(({ name, meaning }) => !wanted || (name + " " + meaning.join(" ")).toLowerCase().includes(wanted))
    .sort((one, other) => other.count - one.count || one.name.localeCompare(other.name));
  fill($("drop-table"), titles, rows.map(({ name, count, meaning }) => ({ key: name, cells: [plain(name), plain(whole(count)),
    plain(short(rate(count, past[name]))), plain(meaning[0]), plain(meaning[1], "soft")] })));
}

let meanings = {};

const EVENT_TITLES = [["time", ""], ["kind", ""], ["what happened", ""], ["by", ""]];
const eventRow = (event) => ({ key: String(event.number), cells: [plain(clock(event.time)), plain(event.kind, KIND[event.level]), plain(event.text),
  plain(event.who, "soft")] });

function events() {
  const wanted = view.filter.toLowerCase();
  const found = seen.events.filter((event) => !wanted || Object.values(event).join(" ").toLowerCase().includes(wanted));
  fill($("event-table"), EVENT_TITLES, found.slice(-200).reverse().map(eventRow));
}

function draw() {
  if (!now) return;
  head();
  states();
  tiles();
  ({ services, service, machine, drops, events })[view.tab]();
  mark();
}

// ---- the stream

function hear(message) {
  const picture = JSON.parse(message.data);
  heard = Date.now();
  for (const event of picture.events) {
    if (seen.event === null || event.number > seen.event) {
      seen.event = event.number;
      seen.events.push(event);
    }
  }
  seen.events.splice(0, Math.max(0, seen.events.length - EVENTS));
  if (picture.meanings) meanings = picture.meanings;
  const points = seen.points;
  const newest = points.at.length ? points.at[points.at.length - 1] : 0;
  const add = (one) => { for (const name of Object.keys(points)) points[name].push(one[name]); };
  if (picture.history) {
    picture.history.at.forEach((at, place) => {
      if (at > newest) add(Object.fromEntries(Object.keys(points).map((name) => [name, picture.history[name][place]])));
    });
  } else if (picture.point && picture.point.at > newest) add(picture.point);
  for (const name of Object.keys(points)) points[name].splice(0, Math.max(0, points[name].length - 3600));
  if (held) return;
  // Rates of less than a fifth of a second would jump about.
  if (now && picture.time - now.time >= 200) before = now;
  now = picture;
  link();
  draw();
}

function link() {
  const late = Date.now() - heard > 4000;
  if (held) set($("link"), "held", "warn");
  else if (!stream || late) set($("link"), heard ? "no answer since " + new Date(heard).toISOString().slice(11, 19) + "Z" : "not connected", "bad");
  else set($("link"), "live", "good");
}

function open() {
  clearTimeout(retry);
  if (stream) stream.close();
  const query = new URLSearchParams({ sort: view.sort, reverse: view.reverse, from: view.from, count: PAGE });
  if (view.tab !== "services") query.set("count", 0);
  if (view.filter && view.tab === "services") query.set("filter", view.filter);
  if (view.tab === "service") query.set("service", view.service);
  if (seen.event !== null) query.set("after", seen.event);
  if (seen.points.at.length) query.set("since", seen.points.at[seen.points.at.length - 1]);
  const own = stream = new EventSource("/live?" + query);
  own.addEventListener("now", hear);
  own.addEventListener("error", () => {
    own.close();
    if (stream === own) {
      stream = null;
      link();
      retry = setTimeout(open, 1000);
    }
  });
}

// ---- keys and clicks

function order(sort) {
  view.reverse = view.sort === sort && !view.reverse;
  view.sort = sort;
  view.from = 0;
  open();
}

function page(step) {
  if (!now || view.tab !== "services") return;
  const from = view.from + step * PAGE;
  if (from < 0 || from >= now.services.found) return;
  view.from = from;
  chosen = 0;
  open();
}

let typing = null;
function search(text) {
  $("search").value = text;
  view.filter = text;
  view.from = 0;
  clearTimeout(typing);
  if (view.tab === "services") typing = setTimeout(open, 150);
  draw();
}

// Goes where a key or a click leads, at once: the browser tells of the new address only later.
function lead(hash) {
  location.hash = hash;
  go();
}

let gone = null;
function go() {
  if (gone === location.hash) return;
  gone = location.hash;
  const [tab, name] = location.hash.replace(/^#/, "").split("/");
  const known = ["services", "service", "machine", "drops", "events"];
  const old = view.tab;
  view.tab = known.includes(tab) ? tab : "services";
  try { view.service = view.tab === "service" ? decodeURIComponent(name || "") : null; } catch { view.service = name; }
  if (old !== view.tab) {
    view.filter = $("search").value = "";
    chosen = 0;
  }
  for (const section of document.querySelectorAll("main > section")) section.classList.toggle("here", section.id === view.tab);
  for (const link of document.querySelectorAll("nav a")) {
    link.classList.toggle("here", link.hash === "#" + view.tab || view.tab === "service" && link.hash === "#services");
  }
  if (now) now.service = undefined;
  if (view.tab === "service") {
    set($("service-title"), view.service);
    set($("service-text"), "");
    fill($("server-table"), [["server", ""]], []);
  }
  open();
  draw();
}

function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  draw();
}

function turn() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", theme); } catch { /* It is forgotten, then. */ }
  paint(theme);
}

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === $("search")) {
    if (event.key === "Escape") { search(""); $("search").blur(); }
    if (event.key === "Enter") $("search").blur();
    return;
  }
  const tabs = { 1: "services", 2: "machine", 3: "drops", 4: "events" };
  const doing = {
    "/": () => $("search").focus(), "?": () => $("help").showModal(), t: turn,
    j: () => { chosen += 1; scroll(); }, ArrowDown: () => { chosen += 1; scroll(); },
    k: () => { chosen -= 1; scroll(); }, ArrowUp: () => { chosen -= 1; scroll(); },
    n: () => page(1), p: () => page(-1), " ": () => { held = !held; link(); },
    Enter: () => { const line = mark(); if (line && line.dataset.goes) lead(line.dataset.goes); },
    Escape: () => { if (view.tab === "service") lead("#services"); else if (view.filter) search(""); },
  }[event.key] || (tabs[event.key] && (() => lead("#" + tabs[event.key])));
  if (!doing || $("help").open || event.target.tagName === "BUTTON" && [" ", "Enter"].includes(event.key)) return;
  event.preventDefault();
  doing();
}

function scroll() {
  const line = mark();
  if (line) line.scrollIntoView({ block: "nearest" });
}

addEventListener("hashchange", go);
addEventListener("keydown", press);
addEventListener("resize", draw);
$("search").addEventListener("input", () => search($("search").value));
$("theme").addEventListener("click", turn);
$("keys").addEventListener("click", () => $("help").showModal());
$("back").addEventListener("click", () => page(-1));
$("on").addEventListener("click", () => page(1));
for (const id of ["service-table"]) {
  $(id).tBodies[0].addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    if (line && line.dataset.goes) lead(line.dataset.goes);
  });
}
setInterval(link, 1000);
try { paint(localStorage.getItem("theme")); } catch { /* Nothing was remembered. */ }
go();
