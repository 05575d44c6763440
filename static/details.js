// The details of a run: its command, its process, its environment, and what happened; on a phone also the way to what has no tab there; and the
// list of keys. Loaded when one of these is first shown. Text gets in by textContent only.

import { onMeantClick } from './controls.js';
import { set, tint, useIcon } from './head.js';
import { linkProof } from './session.js';
import { copy } from './copy.js';
import { DETAILS as D, T, bytes, clock, command, fromWhere, happening, localTime, sentence, took, visible } from './words.js';

const ANSWER_MS = 10000;
const SVG = 'http://www.w3.org/2000/svg';

const sheet = document.createElement('link');
sheet.rel = 'stylesheet';
sheet.href = 'static/panes-details.css';
document.head.append(sheet);

const shown = new Map();     // by pane: its parts
let values = null;           // of the environment: {id, env}, once somebody has asked to see them

const make = (tag, className = '', text = '') => Object.assign(document.createElement(tag), { className, textContent: text });

function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'i');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(document.createElementNS(SVG, 'use'));
  useIcon(svg, name);
  return svg;
}

function button(text, name, className = 'b sm') {
  const element = make('button', className);
  element.type = 'button';
  if (name) element.append(icon(name));
  if (text) element.append(make('span', '', text));
  return element;
}

export function show(pane, c) {
  if (!c.run) {
    if (!shown.has(pane)) pane.replaceChildren(make('p', 'note', D.loading));
    return;
  }
  if (pane.id === 'pane-more') return showMore(pane, c);
  let parts = shown.get(pane);
  if (parts?.id !== c.id) shown.set(pane, parts = build(pane, c));
  parts.c = c;
  update(parts, c);
}

// ---- The pane of a run: built once for each run, then kept up to date -----------------------------------------------------------

function build(pane, { id }) {
  const parts = { id, list: make('dl', 'facts'), env: make('dl', 'facts env'), events: make('ol', 'events'), code: make('code'), heading: null };
  const part = (title, ...children) => {
    const section = make('section');
    section.append(make('h3', '', title), ...children);
    return section;
  };
  const line = make('div', 'copyline'), again = make('div', 'row');
  const copyCommand = button('', 'copy', 'ib');
  copyCommand.setAttribute('aria-label', D.copy);
  line.append(parts.code, copyCommand);
  const link = button(D.copyLink, 'link'), cli = button(D.copyCli, 'copy'), curl = button(D.copyCurl, 'copy');
  const rerun = button(T.runAgain, 'again'), edit = button(T.editAndRun, '');
  again.append(link, cli, curl, rerun, edit);
  copyCommand.addEventListener('click', () => copy(parts.code.textContent, copyCommand));
  link.addEventListener('click', () => copy(`${location.origin}${location.pathname}#/runs/${id}`, link));
  cli.addEventListener('click', () => copy(asCli(parts.c.run), cli));
  curl.addEventListener('click', () => copy(asCurl(parts.c.run), curl));
  onMeantClick(rerun, () => parts.c.act('start', { again: id }));
  onMeantClick(edit, () => parts.c.startForm({ run: id }));
  Object.assign(parts, { rerun, edit });
  const left = make('div'), right = make('div');
  parts.reveal = button(D.show, '', 'b sm quiet');
  parts.reveal.addEventListener('click', () => reveal(parts));
  left.append(part(D.command, line, again), part(D.process, parts.list), part(D.environment, parts.env, parts.reveal), part(D.log, downloads(id)));
  right.append(part(D.happened, parts.events));
  const grid = make('div', 'details');
  grid.append(left, right);
  pane.replaceChildren(grid);
  return parts;
}

const asCli = ({ script, args, cwd }) => `autoappdev start ${command(script, [])}${cwd ? ` --cwd ${command(cwd, [])}` : ''}${args.length ? ` -- ${args.map((arg) => command(arg, [])).join(' ')}` : ''}`;

const asCurl = ({ script, args, cwd }) => `curl --json ${command(JSON.stringify({ script, args, cwd }), [])} ${location.origin}/api/pipeline/start`;

// The whole log of the run: as it is kept, with times, and as the pipeline wrote it.
function downloads(id) {
  const row = make('p', 'row');
  for (const [words, query] of [[D.withTimes, ''], [D.plain, '&timestamps=0'], [D.stdout, '&timestamps=0&stream=stdout'], [D.stderr, '&timestamps=0&stream=stderr']]) {
    const link = make('a', '', words);
    link.href = `api/runs/${id}/log?download=1${query}${linkProof()}`;
    link.download = '';
    row.append(link);
  }
  return row;
}

function update(parts, c) {
  const { run } = c;
  set(parts.code, command(run.script, run.args));
  const canStart = c.connected && c.mayAct && c.pipeline.allowed.includes('start');
  parts.rerun.hidden = parts.edit.hidden = !canStart || !run.outcome;
  facts(parts.list, processFacts(c));
  const env = run.env_names ?? [];
  const known = values?.id === c.id ? values.env : {};
  facts(parts.env, env.length ? env.map((name) => [name, name in known ? known[name] ?? D.notKept : D.hidden]) : [['', D.noEnv]]);
  parts.reveal.hidden = !env.length || !c.mayAct || values?.id === c.id;
  showEvents(parts, run.events ?? [], c.now);
}

// Rows of a list: the texts of those that are there are changed in place.
function facts(list, rows) {
  const kept = rows.filter(([, value]) => value !== null && value !== '');
  while (list.children.length > 2 * kept.length) list.lastChild.remove();
  kept.forEach(([name, value, isMono], n) => {
    if (!list.children[2 * n]) list.append(make('dt'), make('dd'));
    const [term, detail] = [list.children[2 * n], list.children[2 * n + 1]];
    set(term, name);
    set(detail, value);
    detail.className = isMono ? 'mono' : '';
  });
}

function processFacts({ run, isLatest, pipeline: p, usage, now }) {
  const at = (time) => (time ? localTime(Date.parse(time), now) : null);
  const isAlive = isLatest && p.state !== 'stopped';
  const paused = run.paused_ms + (isAlive && p.state === 'paused' ? Math.max(0, now - Date.parse(p.paused_at)) : 0);
  const lasted = run.started_at ? Math.max(0, (run.stopped_at ? Date.parse(run.stopped_at) : now) - Date.parse(run.started_at)) : null;
  const active = lasted === null ? null : [isAlive ? D.soFar(Math.max(0, lasted - paused)) : took(Math.max(0, lasted - paused)), paused >= 500 && D.paused(paused)];
  const list = (items) => (items ?? []).filter(Boolean).join(', ');
  const { exit_code: code, signal_name: sign, signal } = run.outcome ?? {};
  const { oom_kills: oom, memory_peak_bytes: peak, max_rss_kb: rss, cpu_user_ms: user, cpu_system_ms: system } = run;
  return [
    [D.folder, run.cwd, true],
    [D.pid, run.pid === null ? null : D.pidOf(run.pid, run.containment)],
    [D.startedBy, run.started_by ? fromWhere(run.started_by).replace(/^by /, '') : D.unknown],
    [D.started, at(run.started_at) ?? at(run.created_at)],
    [D.ended, at(run.stopped_at)],
    [D.active, list(active)],
    [D.exit, run.outcome ? (code !== null && code !== undefined ? D.exitCode(code) : sign ?? (signal ? String(signal) : null)) : null],
    [D.error, run.error ? sentence(run.error) : null],
    [D.cpuTime, user === null ? null : list([D.user(user), D.system(system)])],
    [D.memory, list([usage && bytes(usage.memory_bytes), peak && D.peak(peak), rss !== null && D.largest(rss * 1024), oom > 0 && D.oom(oom)])],
    [D.grace, run.grace_s === null || run.grace_s === undefined ? D.serversGrace : D.seconds(run.grace_s)],
  ];
}

// Asks for the values of the environment that the start gave. Only those that were kept are known.
async function reveal(parts) {
  const { c } = parts;
  try {
    const { ok, body } = await c.ask(`api/runs/${c.id}/start`, null, ANSWER_MS);
    if (ok) values = { id: c.id, env: body.start.env };
  } catch {
    // The state's loop finds out what is wrong; the button is still there.
  }
  update(parts, parts.c);
}

function showEvents(parts, events, now) {
  // An event never changes, so only new ones are added.
  for (let n = parts.events.children.length; n < events.length; n++) {
    const event = events[n], at = Date.parse(event.at);
    const [word, name, rest] = happening(event);
    const item = make('li'), time = make('time', '', clock(at)), text = make('span');
    time.dateTime = event.at;
    time.title = localTime(at, now);
    const svg = icon(name);
    tint(svg, name);
    text.append(make('b', '', word), rest ? ' ' : '', make('span', '', visible(rest)));
    item.append(time, svg, text);
    parts.events.append(item);
  }
}

// ---- A phone's way to what has no tab there ---------------------------------------------------------------------------------------

function showMore(pane, c) {
  let parts = shown.get(pane);
  if (parts?.id === c.id) return;
  shown.set(pane, parts = { id: c.id });
  const list = make('ul', 'more');
  for (const [tab, words] of [['usage', T.usage], ['details', T.details]]) {
    const item = make('li'), link = make('a', '', words);
    link.href = c.address({ run: c.route.run, tab });
    link.append(icon('right'));
    item.append(link);
    list.append(item);
  }
  const section = make('section');
  section.append(make('h3', '', D.log), downloads(c.id));
  pane.replaceChildren(list, section);
}

// ---- The list of keys -------------------------------------------------------------------------------------------------------------

export function showHelp(dialog) {
  if (!dialog.firstChild) {
    const heading = make('h2', '', D.helpTitle), list = make('dl', 'keys'), close = button(T.close, '', 'b');
    heading.id = 'help-title';
    for (const [keys, words] of D.help) {
      const term = make('dt');
      for (const key of keys.split(' ')) term.append(make('kbd', '', key), ' ');
      list.append(term, make('dd', '', words));
    }
    close.addEventListener('click', () => dialog.close());
    const foot = make('div', 'foot');
    foot.append(make('span', 'grow'), close);
    dialog.append(heading, list, foot);
  }
  if (!dialog.open) dialog.showModal();
}
