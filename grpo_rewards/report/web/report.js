"use strict";
// A page's data stands in <script id="data">; completions reach the page as text nodes only.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(name, value);
  }
  for (const child of children) node.append(child);
  return node;
}

// -- charts ---------------------------------------------------------------------------------------

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const text = { labelColor: color("--soft"), titleColor: color("--soft"), titleFontWeight: 500 };
  return {
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
    axis: { ...text, gridColor: color("--line"), domainColor: color("--line"), tickColor: color("--line") },
    legend: text, text: { color: color("--ink") }, bar: { color: color("--accent") },
    line: { color: color("--accent") }, area: { color: color("--accent") },
    point: { color: color("--accent"), filled: true }, circle: { color: color("--accent") },
    range: { category: ["#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#14b8a6", "#eab308", "#64748b"] },
  };
}

function draw() {
  const drawn = data.charts.map((chart, i) =>
    vegaEmbed(`#chart-${i}`, chart.spec, { actions: false, renderer: "svg", config: theme() }));
  Promise.all(drawn).then(() => { document.body.dataset.drawn = "yes"; });
}

function sections() {
  const root = document.getElementById("charts");
  const groups = new Map();
  data.charts.forEach((chart, i) => {
    if (!groups.has(chart.section)) {
      const box = make("div", { class: "charts" });
      root.append(make("h2", {}, chart.section), box);
      groups.set(chart.section, box);
    }
    groups.get(chart.section).append(
      make("figure", {}, make("figcaption", {}, chart.title), make("div", { id: `chart-${i}` })));
  });
}

// -- the table ------------------------------------------------------------------------------------

const state = { sort: "row", down: false, text: "", show: "all", page: 0, open: new Set() };

function number(value) {
  if (value === null || value === undefined) return make("span", { class: "null" }, "null");
  return String(Math.round(value * 1e4) / 1e4);
}

function key(row, name) {
  if (name === "row") return row.row;
  if (name === "completion") return row.completion;
  if (name === "change") return row.b ? (row.b.reward ?? 0) - (row.scores.reward ?? 0) : 0;
  return row.scores[name] ?? null;
}

function compare(a, b) {
  const [x, y] = [key(a, state.sort), key(b, state.sort)];
  if (x === null || y === null) return (x === null) - (y === null);
  const order = x < y ? -1 : x > y ? 1 : 0;
  return (state.down ? -order : order) || a.row - b.row;
}

function shown() {
  const wanted = state.text.toLowerCase();
  const inside = (text) => (text || "").toLowerCase().includes(wanted);
  return data.rows.filter((row) => {
    if (wanted && !(inside(row.completion) || inside(row.prompt) || inside(row.gold))) return false;
    switch (state.show) {
      case "null": return row.scores.reward === null;
      case "reasons": return Object.keys(row.status).length > 0;
      case "changed": return row.b && row.b.reward !== row.scores.reward;
      case "top": return row.scores.reward === data.top;
      case "zero": return row.scores.reward === 0;
      default: return true;
    }
  }).sort(compare);
}

function columns() {
  const change = data.rows.some((row) => row.b) ? ["change"] : [];
  return ["row", ...data.names, ...change, "completion"];
}

function header() {
  const cells = columns().map((name) => {
    const mark = state.sort === name ? (state.down ? " ▾" : " ▴") : "";
    const sort = () => {
      if (state.sort === name) state.down = !state.down;
      else Object.assign(state, { sort: name, down: name !== "row" && name !== "completion" });
      state.page = 0;
      table();
    };
    return make("th", { class: name === "completion" ? "" : "number", "aria-sort": mark ? (state.down ? "descending" : "ascending") : false },
      make("button", { "data-sort": name, onclick: sort }, name + mark));
  });
  return make("tr", {}, ...cells);
}

function line(row) {
  const cells = columns().map((name) => {
    if (name === "row") return make("td", { class: "number" }, String(row.row));
    if (name === "completion") return make("td", {}, make("div", { class: "snippet" }, row.completion.slice(0, 200)));
    if (name === "change") {
      const change = key(row, "change");
      return make("td", { class: "number " + (change > 0 ? "good" : change < 0 ? "bad" : "null") },
        (change > 0 ? "+" : "") + Math.round(change * 1e4) / 1e4);
    }
    const cell = make("td", { class: "number" }, number(row.scores[name]));
    if (row.status[name]) cell.append(make("div", { class: "status" }, row.status[name]));
    return cell;
  });
  const toggle = () => {
    if (!state.open.delete(row.row)) state.open.add(row.row);
    table();
  };
  return make("tr", { class: "row", tabindex: 0, "data-row": row.row, onclick: toggle,
    onkeydown: (event) => { if (event.key === "Enter") toggle(); } }, ...cells);
}

function marked(text, marks) {
  // Offsets count code points, as Python does.
  const letters = Array.from(text);
  const pre = make("pre", {});
  let at = 0;
  for (const [start, end, kind, title] of marks || []) {
    if (start < at) continue;
    pre.append(letters.slice(at, start).join(""));
    pre.append(make("mark", { class: kind, title }, letters.slice(start, end).join("") || "⟂"));
    at = end;
  }
  pre.append(letters.slice(at).join(""));
  return pre;
}

function legend(marks) {
  const names = { foreign: "another language", fail: "the format is left here", answer: "extracted" };
  const found = [...new Set((marks || []).map((mark) => mark[2]))];
  const box = make("div", { class: "legend" });
  for (const kind of found) box.append(make("mark", { class: kind }, names[kind]), " ");
  return box;
}

function tree(nodes) {
  const list = make("ul", {});
  for (const node of nodes) {
    const item = make("li", {}, make("b", { class: node.skipped ? "skipped" : "" }, node.label));
    if (node.skipped) item.append(make("span", { class: "skipped" }, "  not needed"));
    else item.append(" = ", make("span", { class: "value" }, node.value));
    if (node.status && node.status !== "ok") item.append(make("span", { class: "status" }, "  " + node.status));
    if (node.children && node.children.length) item.append(tree(node.children));
    list.append(item);
  }
  return list;
}

function detail(row) {
  const cell = make("td", { colspan: columns().length });
  const part = (title, ...nodes) => cell.append(make("h3", {}, title), ...nodes);
  if (row.prompt) part("prompt", marked(row.prompt));
  if (row.gold !== null && row.gold !== undefined) part("gold", marked(String(row.gold)));
  part("completion", marked(row.completion, row.marks), legend(row.marks));
  if (row.cut) cell.append(make("div", { class: "legend" }, `${row.cut} characters in all; the rest is not in this page`));
  if (row.b) {
    const rows = data.names.map((name) => make("tr", {}, make("td", {}, name),
      make("td", { class: "number" }, number(row.scores[name])), make("td", { class: "number" }, number(row.b[name]))));
    const heads = ["", "A", "B"].map((name) => make("th", { class: name ? "number" : "" }, name));
    part("A and B", make("table", { class: "summary" }, make("tbody", {}, make("tr", {}, ...heads), ...rows)));
    if (row.other !== undefined && row.other !== row.completion) part("completion in B", marked(row.other));
  }
  if (row.why) {
    const list = tree(row.why);
    list.className = "tree";
    part("why", list);
  }
  return make("tr", { class: "detail", "data-detail": row.row }, cell);
}

function table() {
  const rows = shown();
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const part = rows.slice(state.page * PAGE, (state.page + 1) * PAGE);
  const body = document.getElementById("rows");
  const lines = part.flatMap((row) => state.open.has(row.row) ? [line(row), detail(row)] : [line(row)]);
  body.replaceChildren(...lines);
  document.getElementById("head").replaceChildren(header());
  document.getElementById("count").textContent =
    `${rows.length} of ${data.rows.length} rows, page ${state.page + 1} of ${pages}`;
  document.getElementById("back").disabled = state.page === 0;
  document.getElementById("next").disabled = state.page >= pages - 1;
}

function start() {
  sections();
  draw();
  dark.addEventListener("change", draw);
  if (!data.rows.length) { document.getElementById("completions").hidden = true; return; }
  const rewards = data.rows.map((row) => row.scores.reward).filter((value) => value !== null);
  data.top = rewards.length ? Math.max(...rewards) : null;
  const on = (id, event, change) => document.getElementById(id).addEventListener(event, (e) => { change(e.target.value); table(); });
  on("search", "input", (value) => { state.text = value; state.page = 0; });
  on("show", "change", (value) => { state.show = value; state.page = 0; });
  on("back", "click", () => { state.page -= 1; });
  on("next", "click", () => { state.page += 1; });
  if (!data.rows.some((row) => row.b)) document.querySelector("#show option[value=changed]").remove();
  table();
}

start();
