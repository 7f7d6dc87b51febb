// Steps through a traced block. The page's data, by pages.py:
//   steps: [row, warp, barriers passed, array, sectors, least, lines, degree, passes, least passes,
//     mask of lanes, byte offsets]
//     offsets: [first, apart] of the lanes in the mask, or all of them
//   values: what was read or written, base64: of each step its lanes', min(size, 16) bytes each
//   rows: {lines, kind, size} of the summary; arrays: {name, shape, item, type, shared, address}
"use strict";
const data = JSON.parse(document.getElementById("trace").textContent);
const $ = (id) => document.getElementById(id);
const LINE = 128, SECTOR = 32, WORD = 4, BANKS = 32, LANES = 32, WRITE = 1, ATOMIC = 2, WARP_FUNCTION = 4;

const bytes = Uint8Array.from(atob(data.values), (letter) => letter.charCodeAt(0));
let valuesBegin = 0;
const steps = data.steps.map(([row, warp, phase, array, ...rest]) => {
  const [sectors, least, lines, degree, passes, leastPasses, mask, offsets] = rest;
  const lanes = [];
  for (let lane = 0; lane < LANES; lane++) if (mask >>> lane & 1) lanes.push(lane);
  const { kind, size } = data.rows[row];
  const at = lanes.map((_, n) => offsets.length === 2 ? offsets[0] + n * offsets[1] : offsets[n]);
  const costs = { sectors, least, lines, degree, passes, leastPasses };
  const step = { row, warp, phase, array: data.arrays[array], kind, size, ...costs, lanes, at, values: valuesBegin };
  if (kind <= ATOMIC) valuesBegin += lanes.length * Math.min(size, 16);
  return step;
});

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// x[0, 3, 1:5] for `size` bytes from `offset` on.
function name(array, offset, size) {
  let rest = Math.floor(offset / array.item);
  const index = [];
  for (let axis = array.shape.length - 1; axis >= 0; axis--) {
    index.unshift(rest % array.shape[axis]);
    rest = Math.floor(rest / array.shape[axis]);
  }
  const count = Math.floor(size / array.item);
  if (count > 1) index.push(`${index.at(-1)}:${index.pop() + count}`);
  return `${array.name}[${index.join(", ")}]`;
}

const READERS = {
  float32: (view, at) => view.getFloat32(at, true), float64: (view, at) => view.getFloat64(at, true),
  int32: (view, at) => view.getInt32(at, true), int64: (view, at) => view.getBigInt64(at, true),
  uint8: (view, at) => view.getUint8(at), int8: (view, at) => view.getInt8(at), bool: (view, at) => view.getUint8(at),
};
function value(step, n) {
  const { array, size } = step, wide = Math.min(size, 16), read = READERS[array.type];
  if (!read || wide % array.item) return `${wide} bytes`;
  const view = new DataView(bytes.buffer, step.values + n * wide, wide), found = [];
  for (let at = 0; at < wide; at += array.item) found.push(read(view, at));
  // Shared memory has no type: numbers next to nothing are whole numbers.
  const whole = array.shared && array.type === "float32" && found.some((v) => v && Math.abs(v) < 1e-37)
    && found.every((v) => Math.abs(v) < 1e-37);
  const text = found.map((v, k) => whole ? view.getInt32(4 * k, true) : typeof v === "bigint" || Number.isInteger(v) ? v : Number(v.toPrecision(5)));
  return text.length > 1 ? `(${text.join(", ")})` : `${text[0]}`;
}

// What happened before the step that is shown: of every array, per element, 1 read, 2 written, 3 both.
let been = new Map(), done = 0;
function replay(until) {
  if (until < done) been = new Map(), done = 0;
  for (; done < until; done++) {
    const { array, kind, size, at } = steps[done];
    if (!array) continue;
    if (!been.has(array)) been.set(array, new Uint8Array(array.shape.reduce((a, b) => a * b, 1)));
    const marks = been.get(array), bit = kind === 0 ? 1 : kind === WRITE ? 2 : 3;
    for (const offset of at)
      for (let k = Math.floor(offset / array.item); k * array.item < offset + size; k++) marks[k] |= bit;
  }
}

const plural = (count, word, many = `${word}s`) => `${count} ${count === 1 ? word : many}`;
function sentence(step) {
  const { array, kind, size, lanes } = step, said = [];
  const chain = data.rows[step.row].lines;
  const who = `${chain.length ? `Line ${chain.join(" \u2192 ")}. ` : ""}Warp ${step.warp}, ${lanes.length === LANES ? "all its threads" : `${lanes.length} of its ${LANES} threads`}: `;
  if (!array) return [`${who}${data.kinds[kind]}.`];
  said.push(`${who}${data.kinds[kind]} `, element("strong", "", array.name), `, ${plural(size, "byte")} each. `);
  if (array.shared) {
    said.push(step.degree > 1 ? `${step.degree}-way bank conflict: ` : "No bank conflict: ",
      `${plural(step.passes, "pass", "passes")} over the banks, least ${step.leastPasses}.`);
  } else {
    said.push(`${plural(step.sectors, "sector")} of ${SECTOR} bytes, least ${step.least}, in ${plural(step.lines, "line")} of ${LINE} bytes`,
      step.sectors > step.least ? `: ${(step.sectors / step.least).toFixed(1)} times the least.` : ".");
  }
  return said;
}

function showThreads(step) {
  const grid = $("threads");
  grid.className = "grid";
  grid.style.gridTemplateColumns = `8.5rem repeat(${LANES}, minmax(0, 1fr))`;
  const cells = [];
  for (let first = 0; first < data.threads; first += LANES) {
    const warp = first / LANES;
    cells.push(element("span", warp === step.warp ? "" : "head", `warp ${warp}`));
    for (let lane = 0; lane < LANES; lane++) {
      const active = warp === step.warp && step.lanes.includes(lane);
      const cell = element("i", first + lane >= data.threads ? "absent" : active ? "thread" : "idle", active ? lane : "");
      cell.style.setProperty("--lane", lane);
      cells.push(cell);
    }
  }
  grid.replaceChildren(...cells);
  grid.setAttribute("aria-label", `threads of the block; of warp ${step.warp} threads ${step.lanes.join(" ")} take part`);
}

// The lines of 128 bytes that a step touches. In shared memory a line is one word of each bank.
function showMemory(step) {
  const { array, at, size, lanes, kind } = step, parts = [];
  if (array) {
    const unit = array.shared ? WORD : array.item, across = LINE / unit, base = array.address % LINE;
    const length = array.shape.reduce((a, b) => a * b, 1) * array.item;
    const owners = new Map();  // unit of memory -> the lanes that touch it
    lanes.forEach((lane, n) => {
      for (let k = Math.floor((at[n] + base) / unit); k * unit < at[n] + base + size; k++) owners.set(k, [...owners.get(k) ?? [], lane]);
    });
    const rows = [...new Set([...owners.keys()].map((k) => Math.floor(k / across)))].sort((a, b) => a - b);
    const grid = element("div", "grid"), marks = been.get(array);
    const sector = array.shared ? across : SECTOR / unit, part = `repeat(${sector}, minmax(0, 1fr))`;
    grid.style.gridTemplateColumns = `8.5rem ${new Array(across / sector).fill(part).join(" 3px ")}`;
    if (array.shared) {
      const crowd = banksWanted(step);
      grid.append(element("span", "head", "words of a bank"));
      crowd.forEach((count) => grid.append(element("i", count > 1 ? "hot" : "head", count || "")));
      grid.append(element("span", "head", "bank"));
      for (let bank = 0; bank < BANKS; bank++) grid.append(element("i", "head", bank));
    }
    for (const row of rows) {
      const first = Math.max(0, row * LINE - base);
      grid.append(element("span", "", name(array, first, 0)));
      for (let k = row * across; k < (row + 1) * across; k++) {
        if (k % across && k % sector === 0) grid.append(element("span"));
        const offset = k * unit - base, here = owners.get(k) ?? [];
        const cell = element("i", "", here.length > 1 ? `\u00d7${here.length}` : here.length ? here[0] : "");
        if (offset < 0 || offset >= length) cell.classList.add("absent");
        if (here.length) cell.classList.add("thread");
        if (here.length > 1) cell.classList.add("many");
        if (here.length && kind !== 0) cell.classList.add("written");
        if (!here.length && marks?.[Math.floor(offset / array.item)]) cell.classList.add("been");
        cell.style.setProperty("--lane", here[0] ?? 0);
        cell.title = `${name(array, Math.max(0, offset), 0)}${here.length ? ` thread ${here.map((lane) => step.warp * LANES + lane).join(" ")}` : ""}`;
        grid.append(cell);
      }
    }
    const what = array.shared ? "a row: one word of each bank" : "a row: 128 bytes, four sectors of 32";
    parts.push(element("h3", "", `${array.name}, ${what}`), grid);
  }
  $("memory").replaceChildren(...parts);
}

// How many different words of each bank one phase of the access wants: lanes of wide accesses take turns (traffic.py).
function banksWanted({ at, size, lanes }) {
  const most = new Array(BANKS).fill(0), phases = new Map();
  lanes.forEach((lane, n) => {
    const phase = Math.floor(lane * Math.min(Math.max(size, WORD), 16) / LINE);
    if (!phases.has(phase)) phases.set(phase, new Set());
    for (let word = Math.floor(at[n] / WORD); word * WORD < at[n] + size; word++) phases.get(phase).add(word);
  });
  for (const words of phases.values()) {
    const counts = new Array(BANKS).fill(0);
    for (const word of words) counts[word % BANKS]++;
    counts.forEach((count, bank) => { most[bank] = Math.max(most[bank], count); });
  }
  return most;
}

// Every array as a picture of the part that this block touches: its last axes across, as many as make it most square.
const maps = data.arrays.map((array) => {
  let low = Infinity, high = -1;
  for (const step of steps)
    if (step.array === array)
      for (const offset of step.at) {
        low = Math.min(low, Math.floor(offset / array.item));
        high = Math.max(high, Math.floor((offset + step.size - 1) / array.item));
      }
  if (high < 0) return null;
  const height = (width) => Math.floor(high / width) - Math.floor(low / width) + 1;
  const widths = array.shared ? [LINE / array.item] : array.shape.map((_, axis) => array.shape.slice(axis).reduce((a, b) => a * b, 1));
  const uneven = (width) => Math.abs(Math.log(width / height(width)));
  const across = widths.filter((width) => width <= 256).sort((a, b) => uneven(a) - uneven(b))[0] ?? 64;
  const top = Math.floor(low / across), rows = Math.min(256, height(across));
  const cell = Math.max(1, Math.min(8, Math.floor(256 / across), Math.floor(160 / rows)));
  const canvas = element("canvas");
  [canvas.width, canvas.height] = [across * cell, rows * cell];
  const part = element("div"), begin = name(array, top * across * array.item, 0);
  part.append(element("small", "", `${across} across from ${begin}`), canvas);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `elements of ${array.name} read and written so far`);
  $("maps").append(part);
  return { array, across, top, rows, cell, canvas };
}).filter(Boolean);

function showMaps(step) {
  const style = getComputedStyle(document.documentElement), colour = (variable) => style.getPropertyValue(variable).trim();
  const before = [colour("--panel"), colour("--line-1"), colour("--line-3"), colour("--line-4")];
  const light = matchMedia("(prefers-color-scheme: dark)").matches ? "55% 62%" : "75% 50%";
  for (const { array, across, top, rows, cell, canvas } of maps) {
    const context = canvas.getContext("2d"), marks = been.get(array);
    const paint = (k, fill) => {
      context.fillStyle = fill;
      context.fillRect(k % across * cell, (Math.floor(k / across) - top) * cell, cell, cell);
    };
    context.globalAlpha = 1;
    context.fillStyle = before[0];
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalAlpha = 0.45;
    if (marks) for (let k = top * across; k < (top + rows) * across; k++) if (marks[k]) paint(k, before[marks[k]]);
    context.globalAlpha = 1;
    if (step.array === array)
      step.at.forEach((offset, n) => {
        for (let k = Math.floor(offset / array.item); k * array.item < offset + step.size; k++) paint(k, `hsl(${step.lanes[n] * 11.25} ${light})`);
      });
  }
}

function showEach(step) {
  const what = (n) => step.array ? `${name(step.array, step.at[n], step.size)} = ${value(step, n)}`
    : step.kind === WARP_FUNCTION ? `with lane ${step.at[n]}` : "waits";
  const items = $("each").open ? step.lanes.map((lane, n) => element("li", "", `${step.warp * LANES + lane}  ${what(n)}`)) : [];
  $("each").lastElementChild.replaceChildren(...items);
}

const lines = [...document.querySelectorAll("#source .line")], table = [...document.querySelectorAll("#rows tbody tr")];
let marked = [];
function showSource(step) {
  for (const each of marked) each.classList.remove("now", "way");
  const chain = data.rows[step.row].lines, innermost = chain.at(-1);
  marked = chain.map((number) => lines[number - 1]);
  marked.forEach((line, n) => line.classList.add(chain[n] === innermost ? "now" : "way"));
  marked.push(table[step.row]);
  table[step.row].classList.add("now");
  if (innermost) {
    const pane = $("source"), line = lines[innermost - 1];
    const above = line.offsetTop - pane.offsetTop - pane.scrollTop;
    if (above < 40 || above > pane.clientHeight - 60) pane.scrollTop += above - pane.clientHeight / 3;
  }
}

let visible = steps.map((_, number) => number), current = 0;  // the chosen warps' steps; a place among them
function show(place) {
  current = Math.max(0, Math.min(visible.length - 1, place));
  const number = visible[current], step = steps[number];
  replay(number);
  $("slider").value = current;
  $("place").textContent = `step ${current + 1} of ${visible.length}`;
  $("said").replaceChildren(...sentence(step));
  showSource(step);
  showThreads(step);
  showMemory(step);
  showEach(step);
  showMaps(step);
}

function seek(fits) {
  const found = visible.findIndex((number, place) => place > current && fits(steps[number], steps[visible[current]]));
  if (found >= 0) show(found);
}
const toLine = () => seek((step, now) => step.row !== now.row && String(data.rows[step.row].lines) !== String(data.rows[now.row].lines));
const toBarrier = () => seek((step, now) => step.phase > now.phase);

function choose() {
  const warp = $("warp").value, here = visible[current];
  visible = steps.flatMap((step, number) => warp === "all" || step.warp === Number(warp) ? [number] : []);
  $("slider").max = visible.length - 1;
  show(Math.max(0, visible.findIndex((number) => number >= here)));
}

// To a step of every warp's, whichever warps are chosen.
function jump(fits) {
  const next = visible.findIndex((number, place) => place > current && fits(steps[number]));
  const any = next >= 0 ? next : visible.findIndex((number) => fits(steps[number]));
  if (any >= 0) show(any);
}

$("warp").append(...["all", ...new Set(steps.map((step) => step.warp))].map((warp) => element("option", "", warp)));
$("warp").addEventListener("change", choose);
$("slider").addEventListener("input", () => show(Number($("slider").value)));
$("each").addEventListener("toggle", () => showEach(steps[visible[current]]));
const commands = {
  first: () => show(0), back: () => show(current - 1), next: () => show(current + 1), last: () => show(visible.length - 1),
  line: toLine, barrier: toBarrier,
};
for (const [id, act] of Object.entries(commands)) $(id).addEventListener("click", act);
const keys = { Home: "first", ArrowLeft: "back", ArrowRight: "next", End: "last", n: "line", b: "barrier" };
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, summary") || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  commands[keys[event.key]]();
});
$("source").addEventListener("click", (event) => {
  const line = event.target.closest(".busy");
  if (line) jump((step) => data.rows[step.row].lines.includes(Number(line.dataset.line)));
});
$("rows").addEventListener("click", (event) => {
  const row = event.target.closest("button")?.closest("tr");
  if (!row) return;
  jump((step) => step.row === Number(row.dataset.row));
  $("bar").scrollIntoView();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(current));
choose();
