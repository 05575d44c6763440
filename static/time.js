// A run over time: its steps to scale, with pauses, compared with the last run of the same script that succeeded; and the CPU and the memory of its
// processes, on the same axis. Time always goes from left to right. Loaded when the pane is first shown. Text gets in by textContent only.

import { set, tint, useIcon } from './head.js';
import { T, TIME, bytes, clock, localTime, minute, row, since, took, visible } from './words.js';

const ANSWER_MS = 10000;
const REFRESH_MS = 10000;   // how often the usage of a live run is read again
const POINTS_MAX = 400;     // of a chart
const TICKS_MAX = 6;
const TICKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
const SAME_MS = 1000;       // a difference to the last run that is none, or 3 % of it
const SVG = 'http://www.w3.org/2000/svg';
const [WIDE, HIGH] = [1000, 100]; // the units of a chart

const sheet = document.createElement('link');
sheet.rel = 'stylesheet';
sheet.href = 'static/panes-time.css';
document.head.append(sheet);

const usages = new Map();    // by run: {at, usage}, as the server told it
const lasts = new Map();     // by run: the steps of the run to compare with
const views = new Map();     // by pane

const make = (tag, className = '', text = '') => Object.assign(document.createElement(tag), { className, textContent: text });
function draw(tag, className, parent) {
  const element = document.createElementNS(SVG, tag);
  if (className) element.setAttribute('class', className);
  parent.append(element);
  return element;
}

export function show(pane, c) {
  if (!c.run || c.run.started_at === null) {
    pane.replaceChildren(make('p', 'note', c.run ? c.run.error ?? TIME.noSteps : TIME.loading));
    views.delete(pane);
    return;
  }
  let view = views.get(pane);
  if (view?.id !== c.id || !view.root.isConnected) views.set(pane, view = build(pane, c.id));
  view.c = c;
  learn(view);
  update(view);
}

// ---- What is known of the run -------------------------------------------------------------------------------------------------------

const isAlive = ({ isLatest, pipeline }) => isLatest && pipeline.state !== 'stopped';

function learn(view) {
  const { c } = view;
  const known = usages.get(c.id);
  const isStale = !known || known.version !== c.pipeline.version && c.isLatest || isAlive(c) && c.pipeline.state === 'running' && c.now - known.at > REFRESH_MS;
  if (c.connected && isStale && !view.isAsking) {
    view.isAsking = true;
    const done = (usage) => {
      view.isAsking = false;
      usages.set(c.id, { at: c.now, version: c.pipeline.version, usage: usage ?? known?.usage ?? null });
      if (view.root.isConnected) update(view);
    };
    c.ask(`api/runs/${c.id}/usage`, null, ANSWER_MS).then(({ ok, body }) => done(ok ? body.usage : null), () => done(null));
  }
  const previous = c.run.previous?.id;
  if (c.connected && previous && !lasts.has(c.id)) {
    lasts.set(c.id, []);
    c.ask(`api/runs/${previous}`, null, ANSWER_MS).then(({ ok, body }) => {
      if (ok) lasts.set(c.id, body.run.progress?.steps ?? []);
      if (view.root.isConnected) update(view);
    }, () => lasts.delete(c.id));
  }
}

// From when to when the run is shown, and when it was paused.
function span({ run, isLatest, pipeline: p, now, connected, heard }) {
  const from = Date.parse(isLatest && p.started_at ? p.started_at : run.started_at);
  const ended = isLatest ? p.stopped_at : run.stopped_at;
  const to = Math.max(from + 1000, ended ? Date.parse(ended) : connected ? now : heard);
  const pauses = [];
  for (const { kind, at } of run.events ?? []) {
    if (kind === 'paused') pauses.push([Date.parse(at), to]);
    else if (pauses.length && pauses.at(-1)[1] === to && kind !== 'usage') pauses.at(-1)[1] = Math.min(to, Date.parse(at));
  }
  return { from, to, pauses: pauses.filter(([begin, end]) => end > begin) };
}

const share = (at, { from, to }) => Math.max(0, Math.min(100, 100 * (at - from) / (to - from)));
const overlap = (pauses, from, to) => pauses.reduce((sum, [begin, end]) => sum + Math.max(0, Math.min(end, to) - Math.max(begin, from)), 0);

// ---- The pane -------------------------------------------------------------------------------------------------------------------------

function build(pane, id) {
  const root = make('div', pane.id === 'pane-usage' ? 'time usage' : 'time');
  const view = { id, root, hasSteps: pane.id !== 'pane-usage', rows: [] };
  if (view.hasSteps) {
    view.run = addLabel(root, T.runName(id));
    view.band = make('div', 'lane band');
    view.legend = make('p', 'legend');
    view.steps = make('div', 'steps');
    root.append(view.band, view.legend, view.steps);
  }
  view.none = make('p', 'wide');
  root.append(view.none);
  view.cpu = addChart(root, TIME.cpu, view);
  view.memory = addChart(root, TIME.memory, view);
  view.axis = make('div', 'axis');
  view.axis.setAttribute('aria-hidden', 'true');
  view.told = make('p', 'told');
  view.told.setAttribute('aria-live', 'polite');
  root.append(view.axis, view.told);
  pane.replaceChildren(root);
  return view;
}

function addLabel(root, name) {
  const label = make('div', 'label');
  label.append(make('b', '', name), make('span'));
  root.append(label);
  return label;
}

function addChart(root, name, view) {
  const label = addLabel(root, name);
  label.classList.add('of-chart');
  label.insertBefore(make('strong'), label.lastChild);
  const box = make('div', 'chart'), top = make('span');
  box.tabIndex = 0;
  box.setAttribute('role', 'img');
  const svg = draw('svg', '', box);
  svg.setAttribute('viewBox', `0 0 ${WIDE} ${HIGH}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  for (const y of [0, HIGH / 2, HIGH]) draw('path', 'grid', svg).setAttribute('d', `M0 ${y}H${WIDE}`);
  const chart = { name, label, box, top, pauses: draw('g', 'pauses', svg), area: draw('path', 'area', svg), line: draw('path', 'line', svg), cross: draw('path', 'cross', svg) };
  box.append(top);
  root.append(box);
  const point = (event) => {
    const { left, width } = box.getBoundingClientRect();
    pick(view, (event.clientX - left) / width);
  };
  box.addEventListener('pointermove', point);
  box.addEventListener('pointerdown', point);
  box.addEventListener('pointerleave', () => pick(view, null));
  box.addEventListener('blur', () => pick(view, null));
  box.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !view.samples?.length) return;
    event.preventDefault();
    const at = view.picked === null || view.picked === undefined ? view.samples.length - 1 : view.picked + step;
    choose(view, Math.max(0, Math.min(view.samples.length - 1, at)));
  });
  return chart;
}

// ---- Drawing ----------------------------------------------------------------------------------------------------------------------------

function update(view) {
  const { c } = view;
  const axis = span(c);
  if (view.hasSteps) {
    showBand(view, axis);
    showSteps(view, axis);
  }
  showUsage(view, axis);
  showAxis(view, axis);
}

function bars(lane, list, axis) {
  while (lane.children.length > list.length) lane.lastChild.remove();
  list.forEach(([from, to, className], n) => {
    const bar = lane.children[n] ?? lane.appendChild(make('i'));
    if (bar.className !== className) bar.className = className;
    bar.style.left = `${share(from, axis)}%`;
    bar.style.width = `${share(to, axis) - share(from, axis)}%`;
  });
}

function showBand(view, axis) {
  const { from, to, pauses } = axis;
  bars(view.band, [[from, to, 'run'], ...pauses.map(([begin, end]) => [begin, end, 'hold hatch'])], axis);
  const paused = overlap(pauses, from, to);
  set(view.run.lastChild, [TIME.active(to - from - paused), paused >= 500 && TIME.pausedFor(paused)].filter(Boolean).join(', '));
  const kinds = [['run', TIME.running], ...(pauses.length ? [['hold hatch', TIME.paused]] : [])];
  if (view.legend.children.length === kinds.length) return;
  view.legend.replaceChildren(...kinds.map(([className, words]) => {
    const item = make('span');
    item.append(make('i', className), words);
    return item;
  }));
}

function showSteps(view, axis) {
  const { c } = view;
  const steps = c.progress?.steps ?? [], before = c.progress?.steps_before ?? 0;
  const rows = view.steps.children;
  const isListed = steps.length > 0;
  if (view.steps.dataset.first !== `${before} ${isListed}`) {
    view.steps.dataset.first = `${before} ${isListed}`;
    view.steps.replaceChildren(...(before ? [make('p', 'wide', TIME.earlier(before))] : []), ...(isListed ? [] : [make('p', 'wide', TIME.noSteps)]));
  }
  const extra = (before ? 1 : 0) + (isListed ? 0 : 1);
  steps.forEach((step, n) => {
    const line = rows[n + extra] ?? view.steps.appendChild(buildStep());
    const [label, lane] = line.children;
    const isLast = n === steps.length - 1;
    const tone = !isLast || step.ended_at !== null && !c.run.outcome ? 'succeeded' : isAlive(c) ? (c.pipeline.state === 'paused' ? 'paused' : 'running') : row(c.run).tone;
    const [svg, number, name, time] = label.children;
    useIcon(svg, tone);
    tint(svg, tone);
    set(number, String(before + n + 1));
    set(name, step.name);
    name.title = visible(step.name);
    const from = Date.parse(step.started_at), to = step.ended_at ? Date.parse(step.ended_at) : axis.to;
    const ms = step.ms ?? Math.max(0, to - from - overlap(axis.pauses, from, to));
    set(time, step.ended_at === null && isAlive(c) ? since(ms) : took(ms));
    const inside = axis.pauses.filter(([begin, end]) => begin < to && end > from).map(([begin, end]) => [Math.max(begin, from), Math.min(end, to), 'hold hatch']);
    bars(lane.firstChild, [[from, to, { succeeded: 'ok', running: 'run', paused: 'run', failed: 'fail', killed: 'fail', lost: 'lost' }[tone] ?? 'idle'], ...inside], axis);
    const last = (lasts.get(c.id) ?? []).find((other) => other.name === step.name)?.ms ?? null;
    const off = last === null || step.ms === null ? null : step.ms - last;
    const words = off === null ? '' : Math.abs(off) < Math.max(SAME_MS, 0.03 * last) ? TIME.same : off > 0 ? TIME.longer(off) : TIME.shorter(-off);
    const note = lane.lastChild;
    set(note, words);
    const right = share(to, axis), isBeside = right < 62;
    note.style.left = isBeside ? `calc(${right}% + 6px)` : '';
    note.style.right = isBeside ? '' : `calc(${100 - share(from, axis)}% + 6px)`;
    note.classList.toggle('above', !isBeside && share(from, axis) < 30);
  });
  while (rows.length > steps.length + extra) view.steps.lastChild.remove();
}

function buildStep() {
  const line = make('div', 'step'), label = make('div', 'label'), lane = make('div', 'lane');
  const svg = draw('svg', 'i', label);
  svg.setAttribute('aria-hidden', 'true');
  draw('use', '', svg);
  label.append(make('span', 'number'), make('b'), make('span', 'took'));
  lane.append(make('div', 'bars'), make('em'));
  line.append(label, lane);
  return line;
}

// ---- CPU and memory ---------------------------------------------------------------------------------------------------------------------

// The next round number.
function roundUp(value, base) {
  const power = base ** Math.floor(Math.log(Math.max(1, value)) / Math.log(base));
  for (const factor of [1, 2, 3, 4, 5, 8, 10, 20, 30, 40, 50, 80, 100, 200, 300, 400, 500, 800, 1000]) if (factor * power >= value) return factor * power;
  return value;
}

function samplesOf({ id, usage }, axis) {
  const known = usages.get(id)?.usage;
  const samples = known?.samples ?? [];
  const at = usage ? Date.parse(usage.at) - axis.from : 0;
  const isNew = usage && at > (samples.at(-1)?.[0] ?? -1);
  return isNew ? [...samples, [at, usage.cpu_percent, usage.memory_bytes, usage.processes]] : samples;
}

// At most so many points, each the highest of its part.
function fewer(samples, at) {
  const size = Math.ceil(samples.length / POINTS_MAX);
  if (size <= 1) return samples.map((sample) => [sample[0], sample[at]]);
  const points = [];
  for (let n = 0; n < samples.length; n += size) {
    const part = samples.slice(n, n + size);
    points.push([part[0][0], Math.max(...part.map((sample) => sample[at]))]);
  }
  return points;
}

function showUsage(view, axis) {
  const { c } = view;
  const told = usages.get(c.id)?.usage;
  const samples = view.samples = samplesOf(c, axis);
  const oom = told?.oom_kills > 0 ? TIME.oom(told.oom_kills) : '';
  set(view.none, samples.length ? oom : told === undefined ? TIME.loading : `${oom} ${TIME.noUsage} ${isAlive(c) ? '' : TIME.whyNoUsage}`.trim());
  view.none.hidden = !view.none.textContent;
  for (const chart of [view.cpu, view.memory]) chart.label.hidden = chart.box.hidden = !samples.length;
  view.axis.hidden = !samples.length && !(view.hasSteps && c.progress?.steps.length);
  view.told.hidden = !samples.length;
  if (!samples.length) return;
  const count = TIME.processes(samples.at(-1)[3]);
  showChart(view.cpu, samples, 1, axis, { most: roundUp(Math.max(10, ...fewer(samples, 1).map(([, value]) => value)), 10), format: TIME.percent,
    peak: told?.peak?.cpu_percent, more: [told?.cores && TIME.ofCores(told.cores), isAlive(c) && count], isAlive: isAlive(c), interval: told?.interval_ms });
  showChart(view.memory, samples, 2, axis, { most: roundUp(Math.max(1e6, ...fewer(samples, 2).map(([, value]) => value)), 1000), format: bytes,
    peak: told?.peak?.memory_bytes, more: [told?.memory_total && TIME.ofMemory(bytes(told.memory_total))], isAlive: isAlive(c), interval: told?.interval_ms });
  if (view.picked !== null && view.picked !== undefined) choose(view, Math.min(view.picked, samples.length - 1));
}

function showChart(chart, samples, at, axis, { most, format, peak, more, isAlive: lives, interval }) {
  const width = axis.to - axis.from;
  const points = fewer(samples, at);
  const gap = 3 * Math.max(interval ?? 10000, points.length > 1 ? (points.at(-1)[0] - points[0][0]) / points.length : 0);
  let line = '', area = '', begun = 0, last = null;
  const x = (t) => Math.max(0, Math.min(WIDE, WIDE * t / width)).toFixed(1);
  const y = (value) => (HIGH - HIGH * Math.min(1, value / most)).toFixed(1);
  const close = () => { if (last !== null) area += `V${HIGH}H${x(begun)}Z`; };
  for (const [t, value] of points) {
    if (last === null || t - last > gap) {
      close();
      line += `M${x(t)} ${y(value)}`;
      area += `M${x(t)} ${HIGH}V${y(value)}`;
      begun = t;
    } else {
      line += `L${x(t)} ${y(value)}`;
      area += `L${x(t)} ${y(value)}`;
    }
    last = t;
  }
  close();
  chart.line.setAttribute('d', line);
  chart.area.setAttribute('d', area);
  chart.pauses.replaceChildren();
  for (const [begin, end] of axis.pauses) {
    draw('path', '', chart.pauses).setAttribute('d', `M${x(begin - axis.from)} 0H${x(end - axis.from)}V${HIGH}H${x(begin - axis.from)}Z`);
  }
  const values = samples.map((sample) => sample[at]);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const highest = Math.max(peak ?? 0, ...values);
  set(chart.top, format(most));
  set(chart.label.children[1], format(lives ? values.at(-1) : highest));
  const words = [...(lives ? [TIME.mean(format(mean)), TIME.peak(format(highest))] : [TIME.mean(format(mean))]), ...more].filter(Boolean).join(', ');
  set(chart.label.lastChild, words);
  chart.box.setAttribute('aria-label', TIME.chart(chart.name, [lives && TIME.now(format(values.at(-1))), TIME.mean(format(mean)), TIME.peak(format(highest))].filter(Boolean).join(', ')));
}

// The sample at this part of the width, or none.
function pick(view, part) {
  if (part === null || !view.samples?.length) return choose(view, null);
  const { from, to } = span(view.c);
  const t = part * (to - from);
  let best = 0;
  view.samples.forEach((sample, n) => { if (Math.abs(sample[0] - t) < Math.abs(view.samples[best][0] - t)) best = n; });
  choose(view, best);
}

function choose(view, n) {
  view.picked = n;
  const { from, to } = span(view.c);
  const sample = n === null ? null : view.samples[n];
  for (const chart of [view.cpu, view.memory]) {
    chart.cross.setAttribute('d', sample ? `M${(WIDE * sample[0] / (to - from)).toFixed(1)} 0V${HIGH}` : '');
  }
  set(view.told, sample ? TIME.at(localTime(from + sample[0], view.c.now), TIME.percent(sample[1]), bytes(sample[2]), sample[3]) : '');
}

function showAxis(view, { from, to }) {
  const step = 1000 * (TICKS_S.find((seconds) => (to - from) / 1000 / seconds <= TICKS_MAX) ?? TICKS_S.at(-1));
  const format = step < 60000 ? clock : step < 864e5 ? minute : (ms) => since(ms - from);
  // Round times where the device is.
  const offset = new Date(from).getTimezoneOffset() * 60000;
  const ticks = [], edge = 700 * format(from).length / Math.max(1, view.axis.clientWidth);
  for (let at = Math.ceil((from - offset) / step) * step + offset; at < to; at += step) {
    const place = share(at, { from, to });
    if (place > edge && place < 100 - edge) ticks.push([place, format(at)]);
  }
  const all = [[0, format(from)], ...ticks, [100, format(to)]];
  while (view.axis.children.length > all.length) view.axis.lastChild.remove();
  all.forEach(([place, words], n) => {
    const label = view.axis.children[n] ?? view.axis.appendChild(make('span'));
    set(label, words);
    label.style.left = `${place}%`;
    label.className = n === 0 ? 'first' : n === all.length - 1 ? 'last' : '';
  });
}
