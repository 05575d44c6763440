// A run over time: its steps to scale, with pauses, compared with the last successful run of the same script; and the CPU and memory use of its
// processes, on the same axis. Time always runs from left to right.

import { stepName } from './ansi.js';
import { $, each, el, icon, set, tint, useIcon } from './dom.js';
import { isTyping } from './feed.js';
import { notify } from './head.js';
import { enumerated, get } from './parts.js';
import { bytes, clock, HUES, localTime, minute, row, since, stepWord, T, TIME, took, visible } from './words.js';

// How often the usage of a live run is loaded again.
const REFRESH_MS = 10000;
// The width and height of a chart, in its own units.
const [WIDE, HIGH] = [1000, 100];
const TICKS_MAX = 6;
const TICKS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
// Differences from the last run that are below this, or below 3 % of its duration, count as none.
const SAME_MS = 1000;

// By run: the usage that the server reported, and the steps of the run to compare with.
const usages = new Map(), lasts = new Map();
// The view of each pane.
const timeViews = new Map();

// The charts: name, index in a sample, lowest scale, format of a value, name of the peak, and the text beside the mean.
const CHARTS = [
  [T.cpu, 1, 10, TIME.percent, 'cpu_percent', ({ cores }) => cores && TIME.ofCores(cores)],
  [T.memory, 2, 1e6, bytes, 'memory_bytes', ({ memory_total: total }) => total && TIME.ofMemory(bytes(total))],
];

export function showTime(pane, c) {
  if (!c.run?.started_at) {
    pane.replaceChildren(el('p', 'note', c.run ? c.run.error ?? TIME.noSteps : TIME.loading));
    timeViews.delete(pane);
    return;
  }
  let view = timeViews.get(pane);
  if (view?.id !== c.id) {
    timeViews.set(pane, view = buildPane(c.id, pane.id === 'pane-steps'));
    pane.replaceChildren(view.root);
  }
  view.c = c;
  learnTime(view);
  updateTime(view);
}

// ---- What is known of the run -------------------------------------------------------------------------------------------------------

const isAlive = ({ isLatest, pipeline }) => isLatest && pipeline.state !== 'stopped';

function learnTime(view) {
  const { c, c: { id, run, isLatest, pipeline: { state } } } = view;
  if (!c.connected) return;
  const known = usages.get(id), previous = run.previous?.id;
  const key = !known?.usage || isLatest && state === 'running' ? Math.floor(c.now / REFRESH_MS) : isLatest && state;
  const learn = (path, take) => get(c.ask, `api/runs/${path}`).then((answer) => {
    take(answer);
    updateTime(view);
  });
  if (known?.key !== key) {
    usages.set(id, { ...known, key });
    learn(`${id}/usage`, ({ usage = known?.usage ?? null }) => usages.set(id, { key, usage }));
  }
  if (previous && !lasts.has(id)) {
    lasts.set(id, []);
    learn(previous, ({ run: last }) => (last ? lasts.set(id, last.progress?.steps ?? []) : lasts.delete(id)));
  }
}

// Returns when the shown time of the run begins and ends, and when the run was paused.
function spanOf({ run, isLatest, pipeline: p, now, connected, heard }) {
  const from = Date.parse(isLatest && p.started_at || run.started_at);
  const to = Math.max(from + 1000, Date.parse(isLatest ? p.stopped_at : run.stopped_at) || (connected ? now : heard));
  const pauses = [];
  for (const { kind, at } of run.events ?? []) {
    if (kind === 'paused') pauses.push([Date.parse(at), to]);
    else if (pauses.at(-1)?.[1] === to && kind !== 'usage') pauses.at(-1)[1] = Math.min(to, Date.parse(at));
  }
  // Positions of a time: in percent, and in the units of a chart.
  const share = (at) => Math.max(0, Math.min(100, 100 * (at - from) / (to - from)));
  return { from, to, pauses, share, x: (at) => (WIDE / 100 * share(at)).toFixed(1) };
}

// Returns the pauses between two times.
const pausesIn = (pauses, from, to) =>
  pauses.map(([begin, end]) => [Math.max(begin, from), Math.min(end, to), 'hold hatch']).filter(([begin, end]) => end > begin);
const sumOf = (pauses) => pauses.reduce((ms, [begin, end]) => ms + end - begin, 0);

// ---- The pane -------------------------------------------------------------------------------------------------------------------------

const addLabel = (className, name, ...more) => el('div', className, el('b', '', name), ...more, el('span'));

function buildPane(id, hasSteps) {
  const view = { id, samples: [], none: el('p', 'hint'), axis: el('div', { className: 'axis', 'aria-hidden': true }),
    told: el('p', { className: 'told', 'aria-live': 'polite' }), run: hasSteps && addLabel('label', T.runName(id)), band: el('div', 'lane band'),
    legend: el('p', 'legend', el('span', '', el('i', 'run'), TIME.running), el('span', '', el('i', 'hold hatch'), TIME.paused)),
    noSteps: el('p', 'hint'), at: 0,
    steps: el('div', { className: 'steps', role: 'group', 'aria-label': T.steps, onkeydown: (event) => moveStep(view, event) }) };
  view.charts = CHARTS.map((chart) => buildChart(view, chart));
  view.root = el('div', hasSteps ? 'time' : 'time usage', hasSteps && [view.run, view.band, view.legend, view.noSteps, view.steps], view.none,
    view.charts.flatMap(({ label, box }) => [label, box]), view.axis, view.told);
  return view;
}

function buildChart(view, [name]) {
  const paths = ['pauses', 'area', 'line', 'cross'].map((kind) => el('path', kind));
  const box = el('div', { className: 'chart', tabIndex: 0, role: 'img' }, el('svg', { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: 'none' },
    el('path', { class: 'grid', d: `M0 0H${WIDE}M0 ${HIGH / 2}H${WIDE}M0 ${HIGH}H${WIDE}` }), paths), el('span'));
  box.onpointermove = box.onpointerdown = ({ clientX }) => {
    const { left, width } = box.getBoundingClientRect(), { from, to } = spanOf(view.c);
    const off = ([t]) => Math.abs(t - (to - from) * (clientX - left) / width);
    pickSample(view, view.samples.reduce((best, sample, n) => (off(sample) < off(view.samples[best]) ? n : best), 0));
  };
  box.onpointerleave = box.onblur = () => pickSample(view, null);
  box.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    pickSample(view, (view.picked ?? view.samples.length) + step);
  };
  return { label: addLabel('label of-chart', name, el('strong')), box, paths };
}

// ---- Drawing ----------------------------------------------------------------------------------------------------------------------------

function updateTime(view) {
  const axis = spanOf(view.c);
  if (view.run) drawSteps(view, axis);
  drawUsage(view, axis);
  showAxis(view, axis);
}

function bars(lane, list, { share }) {
  each(lane, list, () => el('i'), (bar, [from, to, className]) => {
    bar.className = className;
    bar.style.left = `${share(from)}%`;
    bar.style.width = `${share(to) - share(from)}%`;
  });
}

function drawSteps(view, axis) {
  const { c, c: { progress, run, pipeline: { state } } } = view, { from: begun, to: now, pauses, share } = axis;
  const steps = progress?.steps ?? [], before = progress?.steps_before ?? 0;
  const paused = pausesIn(pauses, begun, now), pausedMs = sumOf(paused);
  bars(view.band, [[begun, now, 'run'], ...paused], axis);
  set(view.run.lastChild, TIME.active(now - begun - pausedMs) + (pausedMs >= 500 ? `, ${TIME.pausedFor(pausedMs)}` : ''));
  view.legend.lastChild.hidden = !paused.length;
  set(view.noSteps, !steps.length ? TIME.noSteps : before ? TIME.earlier(before) : '');
  each(view.steps, steps, buildStep, (link, step, n) => {
    const { firstChild: label, lastChild: lane } = link, { name, started_at: started, ended_at: ended, ms: told } = step;
    link.href = c.address({ run: c.id });
    link.tabIndex = n === Math.min(view.at, steps.length - 1) ? 0 : -1;
    link.onfocus = () => focusStep(view, n);
    link.onclick = (event) => openStep(view, step, event);
    const isLast = n === steps.length - 1;
    const tone = !isLast || ended && !run.outcome ? 'succeeded' : !isAlive(c) ? row(run).tone : state === 'paused' ? 'paused' : 'running';
    const [picture, number, title, time] = label.children;
    useIcon(picture, tone, stepWord(tone));
    tint(picture, tone);
    set(number, `${before + n + 1}`);
    set(title, name);
    title.title = visible(name);
    const from = Date.parse(started), to = Date.parse(ended) || now, inside = pausesIn(pauses, from, to);
    const ms = told ?? Math.max(0, to - from - sumOf(inside));
    set(time, !ended && isAlive(c) ? since(ms) : took(ms));
    bars(lane.firstChild, [[from, to, tone === 'paused' ? 'run' : HUES[tone]], ...inside], axis);
    const last = lasts.get(c.id)?.find((other) => other.name === name)?.ms ?? null, off = told - last;
    const note = lane.lastChild, left = share(from), right = share(to), isBeside = right < 62;
    set(note, last === null || told === null ? '' : Math.abs(off) < Math.max(SAME_MS, 0.03 * last) ? TIME.same : TIME.than(off));
    note.style.left = isBeside ? `calc(${right}% + 6px)` : '';
    note.style.right = isBeside ? '' : `calc(${100 - left}% + 6px)`;
    note.hidden = !isBeside && left < 30;
  });
}

const buildStep = () => el('a', 'step-row', el('div', 'label', icon(''), el('span', 'number'), el('b'), el('span', 'took')),
  el('div', 'lane', el('div', 'bars'), el('em')));

// The steps are one tab stop. Within them, arrow keys move the focus.
function focusStep(view, n) {
  view.at = n;
  [...view.steps.children].forEach((it, at) => { it.tabIndex = at === n ? 0 : -1; });
}

function moveStep({ at, steps: { children } }, event) {
  const last = children.length - 1, to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  children[Math.max(0, Math.min(last, to))].focus();
}

// Goes to the line that began a step: of the lines with its name, the one with the nearest time.
async function openStep({ c: { id, ask, address } }, { name, started_at: started }, event) {
  // Such a click opens the run in another tab or window.
  if (event.shiftKey || isTyping(event)) return;
  event.preventDefault();
  const off = ({ at }) => Math.abs(Date.parse(at) - Date.parse(started));
  let best;
  for (let since = 0, isAll = false; !isAll;) {
    const { problem, matches, next, searched_all: all } = await get(ask, `api/runs/${id}/log/search?regex=^::step&limit=1000&since=${since}`);
    if (problem) return notify(problem);
    for (const line of matches) if (stepName({ text: line.line }).startsWith(name) && !(off(best ?? line) < off(line))) best = line;
    // A response lists a limited number of matches, and searches a part of a long log.
    since = matches.at(-1)?.id ?? next;
    isAll = all && !matches.length;
  }
  if (!best) return notify(TIME.noLine);
  // Keys act on the log afterwards.
  addEventListener('hashchange', () => $('log').focus({ preventScroll: true }), { once: true });
  location.hash = address({ run: id, line: best.id });
}

// ---- CPU and memory ---------------------------------------------------------------------------------------------------------------------

// Returns the next round number.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 3, 4, 5, 8, 10].find((factor) => factor * power >= value);
}

function drawUsage(view, axis) {
  const { c, c: { id, usage } } = view, told = usages.get(id)?.usage;
  const samples = view.samples = [...told?.samples ?? []];
  const at = Date.parse(usage?.at) - axis.from;
  if (at > (samples.at(-1)?.[0] ?? -1)) samples.push([at, usage.cpu_percent, usage.memory_bytes, usage.processes]);
  const isNone = !samples.length, oom = told?.oom_kills ? TIME.oom(told.oom_kills) : '';
  set(view.none, !isNone ? oom : told === undefined ? TIME.loading : `${oom} ${TIME.noUsage} ${isAlive(c) ? '' : TIME.whyNoUsage}`.trim());
  view.axis.hidden = isNone && !(view.run && c.progress?.steps.length);
  CHARTS.forEach((chart, n) => {
    const { label, box } = view.charts[n];
    label.hidden = box.hidden = isNone;
    if (!isNone) showChart(view.charts[n], chart, samples, axis, told, isAlive(c));
  });
  if (view.picked != null) pickSample(view, view.picked);
}

function showChart({ label, box, paths }, [name, at, least, format, peak, of], samples, { from, pauses, x }, told, lives) {
  const values = samples.map((sample) => sample[at]), now = format(values.at(-1)), top = Math.max(...values);
  const most = roundUp(Math.max(least, top)), gap = 3 * (told?.interval_ms ?? REFRESH_MS);
  // Makes a line for each part without a gap, and the area below it.
  let line = '', area = '', before = -Infinity, end = '';
  samples.forEach(([t], n) => {
    const isNew = t - before > gap, at = x(from + t), point = `${at} ${(HIGH - HIGH * values[n] / most).toFixed(1)}`;
    if (isNew) area += `${end}M${at} ${HIGH}`;
    line += (isNew ? 'M' : 'L') + point;
    area += `L${point}`;
    end = `V${HIGH}Z`;
    before = t;
  });
  const bands = pauses.map(([begin, until]) => `M${x(begin)} 0H${x(until)}V${HIGH}H${x(begin)}Z`).join('');
  [bands, area + end, line].forEach((shape, n) => paths[n].setAttribute('d', shape));
  const mean = TIME.mean(format(values.reduce((all, value) => all + value) / values.length));
  const highest = format(Math.max(told?.peak?.[peak] ?? 0, top));
  set(box.lastChild, format(most));
  set(label.children[1], lives ? now : highest);
  set(label.lastChild, enumerated(mean, lives && TIME.peak(highest), of(told ?? {}), lives && at === 1 && TIME.processes(samples.at(-1)[3])));
  box.ariaLabel = TIME.chart(name, enumerated(lives && TIME.now(now), mean, TIME.peak(highest)));
}

// Marks a sample in both charts and shows its values, or removes the mark.
function pickSample(view, n) {
  view.picked = n === null ? null : Math.max(0, Math.min(view.samples.length - 1, n));
  const { from, x } = spanOf(view.c), sample = view.samples[view.picked], at = from + sample?.[0];
  for (const { paths } of view.charts) paths[3].setAttribute('d', sample ? `M${x(at)} 0V${HIGH}` : '');
  set(view.told, sample ? TIME.at(localTime(at, view.c.now), TIME.percent(sample[1]), bytes(sample[2]), sample[3]) : '');
}

function showAxis(view, { from, to, share }) {
  const step = 1000 * (TICKS_S.find((seconds) => (to - from) / 1000 / seconds <= TICKS_MAX) ?? TICKS_S.at(-1));
  const format = step < 60000 ? clock : step < 864e5 ? minute : (ms) => since(ms - from);
  // Ticks are at round times in the device's time zone.
  const offset = new Date(from).getTimezoneOffset() * 60000;
  const ticks = [], edge = 1100 * format(from).length / Math.max(1, view.axis.clientWidth);
  for (let at = Math.ceil((from - offset) / step) * step + offset; share(at) < 100 - edge; at += step) if (share(at) > edge) ticks.push(at);
  each(view.axis, [from, ...ticks, to], () => el('span'), (label, at) => {
    set(label, format(at));
    label.style.left = `${share(at)}%`;
    label.className = at === from ? 'first' : at === to ? 'last' : '';
  });
}
