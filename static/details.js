// The details of a run: its command, process, environment and events; and the list of keyboard shortcuts.

import { each, el, icon, set, tint } from './dom.js';
import { acting, button, cli, code, copy, copyLine, curl, enumerated, foot, get, timeOf } from './parts.js';
import { bytes, clock, command, DETAILS, fromWhere, happening, localTime, span, START, stop, T, TIME, took } from './words.js';

// The elements of each pane, and the run that they show.
const panes = new Map();
// The environment, after the user has asked to see it, and the run that it belongs to.
let env = {}, envOf;

export function showDetails(pane, c) {
  let view = panes.get(pane);
  if (!c.run) {
    if (!view) pane.replaceChildren(el('p', 'note', TIME.loading));
    return;
  }
  if (view?.id !== c.id) {
    view = { id: c.id };
    panes.set(pane, view);
    pane.replaceChildren(...details(view));
  }
  view.c = c;
  view.update();
}

const headed = (title, ...children) => el('section', '', el('h3', '', title), ...children);

// ---- The pane of a run: built once for each run, then kept up to date -----------------------------------------------------------

function details(view) {
  const { id } = view;
  const line = code(''), process = el('div', 'facts'), names = el('div', 'facts env'), events = el('ol', 'events');
  const rerun = acting('b sm', T.runAgain, () => view.c.act('start', { again: id }), 'again');
  const edit = acting('b sm', T.editAndRun, () => view.c.startForm({ run: id }));
  // Makes a button that copies the text that `text` makes from the run's start.
  const copier = (words, name, text) => button('b sm', words, ({ currentTarget }) => {
    const { script, args, cwd } = view.c.run;
    copy(text({ script, args, cwd }), currentTarget);
  }, name);
  // Requests the values of the variables that the start set. Only values that were kept are known.
  const reveal = button('b sm', START.show, async () => {
    const { start } = await get(view.c.ask, `api/runs/${id}/start`);
    if (start) [env, envOf] = [start.env, id];
    view.update();
  });
  view.update = () => {
    const { c, c: { run } } = view;
    set(line, command(run.script, run.args));
    rerun.hidden = edit.hidden = !c.connected || !c.mayAct || !c.pipeline.allowed.includes('start') || !run.outcome;
    facts(process, processFacts(c));
    const isKnown = envOf === id, added = run.env_names ?? [];
    facts(names, added[0] ? added.map((name) => [name, isKnown ? env[name] ?? DETAILS.notKept : DETAILS.hidden]) : [['', DETAILS.noEnv]]);
    reveal.hidden = !added.length || !c.mayAct || isKnown;
    each(events, run.events ?? [], () => el('li'), (item, event) => showEvent(item, event, c.now));
  };
  return [el('div', 'details', el('div', '',
    headed(DETAILS.command, copyLine(line), el('div', 'actions', copier(DETAILS.copyLink, 'link', () => new URL(`#/runs/${id}`, location).href),
      copier(DETAILS.copyCli, 'copy', cli), copier(DETAILS.copyCurl, 'copy', curl), rerun, edit)),
    headed(DETAILS.process, process), headed(DETAILS.environment, names, reveal)), headed(DETAILS.happened, events))];
}

function facts(list, rows) {
  each(list, rows.filter(([, value]) => value), () => el('dl', '', el('dt'), el('dd')), (item, [name, value, isMono]) => {
    set(item.firstChild, name);
    set(item.lastChild, value);
    item.lastChild.className = isMono ? 'mono' : '';
  });
}

function processFacts({ run, isLatest, pipeline: p, usage, now }) {
  const { outcome, started_at: started, stopped_at: stopped } = run, peak = Math.max(run.memory_peak_bytes, run.max_rss_kb * 1024);
  const at = (time) => time && localTime(Date.parse(time), now);
  const isPaused = isLatest && p.state === 'paused', isAlive = isLatest && p.state !== 'stopped';
  const paused = run.paused_ms + (isPaused ? Math.max(0, now - Date.parse(p.paused_at)) : 0);
  const active = Math.max(0, (stopped ? Date.parse(stopped) : now) - Date.parse(started) - paused);
  const code = outcome?.exit_code ?? null;
  return [
    [T.folder, run.cwd, true],
    [DETAILS.pid, run.pid && DETAILS.pidOf(run.pid, run.containment)],
    [DETAILS.startedBy, run.started_by ? fromWhere(run.started_by).replace(/^by /, '') : DETAILS.unknown],
    [DETAILS.started, at(started ?? run.created_at)],
    [DETAILS.ended, at(stopped)],
    [DETAILS.active, started && enumerated(isAlive ? DETAILS.soFar(active) : took(active), paused >= 500 && DETAILS.paused(paused))],
    [DETAILS.exit, code === null ? outcome?.signal_name ?? (outcome?.signal && `${outcome.signal}`) : DETAILS.exitCode(code)],
    [DETAILS.error, run.error && stop(run.error)],
    [DETAILS.cpuTime, run.cpu_user_ms !== null && enumerated(DETAILS.user(run.cpu_user_ms), DETAILS.system(run.cpu_system_ms))],
    [T.memory, enumerated(usage && bytes(usage.memory_bytes), peak && DETAILS.peak(peak), run.oom_kills && DETAILS.oom(run.oom_kills))],
    [DETAILS.grace, run.grace_s == null ? DETAILS.serversGrace : span(run.grace_s)],
  ];
}

// An event never changes, so it is drawn once.
function showEvent(item, event, now) {
  if (item.firstChild) return;
  const [word, name, rest] = happening(event), picture = icon(name);
  tint(picture, name);
  item.append(timeOf(event.at, clock, now), picture, el('span', '', el('b', '', word), ' ', rest));
}

// ---- The list of keyboard shortcuts -----------------------------------------------------------------------------------------------

export function showHelp(dialog) {
  if (!dialog.firstChild) {
    dialog.append(el('h2', { id: 'help-title' }, T.keys),
      el('dl', 'keys', DETAILS.help.flatMap(([keys, words]) =>
        [el('dt', '', keys.split(' ').flatMap((key) => [el('kbd', '', key), ' '])), el('dd', '', words)])),
      foot(button('b', T.close, () => dialog.close())));
  }
  if (!dialog.open) dialog.showModal();
}
