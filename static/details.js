// The details of a run: its command, its process, its environment, and what happened; on a phone also the way to what has no tab there; and the
// list of keys. Loaded when one of these is first shown.

import { set, tint } from './head.js';
import { acting, button, cli, code, copy, copyLine, curl, each, el, get, icon, looks } from './parts.js';
import { DETAILS as D, T, bytes, clock, command, fromWhere, happening, localTime, stop, took } from './words.js';

await looks();

// The parts of each pane, and the run that they are of.
const panes = new Map();
// The environment, once somebody has asked to see it, and its run.
let env = {}, envOf;

export function show(pane, c) {
  let view = panes.get(pane);
  if (!c.run) {
    if (!view) pane.replaceChildren(el('p', 'note', D.loading));
    return;
  }
  if (view?.id !== c.id) {
    view = { id: c.id };
    panes.set(pane, view);
    pane.replaceChildren(...(pane.id === 'pane-more' ? more(c) : details(view)));
  }
  view.c = c;
  view.update?.();
}

const section = (title, ...children) => el('section', '', el('h3', '', title), ...children);

// ---- The pane of a run: built once for each run, then kept up to date -----------------------------------------------------------

function details(view) {
  const { id } = view;
  const line = code(''), process = el('div', 'facts'), names = el('div', 'facts env'), events = el('ol', 'events');
  const rerun = acting('b sm', T.runAgain, () => view.c.act('start', { again: id }), 'again');
  const edit = acting('b sm', T.editAndRun, () => view.c.startForm({ run: id }));
  // A button that copies what `text` makes of the run.
  const copier = (words, name, text) => button('b sm', words, ({ currentTarget }) => copy(text(view.c.run), currentTarget), name);
  // Asks for the values of the environment that the start gave. Only those that were kept are known.
  const reveal = button('b sm', D.show, async () => {
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
    facts(names, added.length ? added.map((name) => [name, isKnown ? env[name] ?? D.notKept : D.hidden]) : [['', D.noEnv]]);
    reveal.hidden = !added.length || !c.mayAct || isKnown;
    each(events, run.events ?? [], () => el('li'), (item, event) => showEvent(item, event, c.now));
  };
  return [el('div', 'details', el('div', '',
    section(D.command, copyLine(line, () => line.textContent, ''), el('div', 'row',
      copier(D.copyLink, 'link', () => location.href.split('#')[0] + view.c.address({ run: id })),
      copier(D.copyCli, 'copy', ({ script, args, cwd }) => cli({ script, args, cwd })),
      copier(D.copyCurl, 'copy', ({ script, args, cwd }) => curl({ script, args, cwd })), rerun, edit)),
    section(D.process, process), section(D.environment, names, reveal)), section(D.happened, events))];
}

function facts(list, rows) {
  each(list, rows.filter(([, value]) => value), () => el('dl', '', el('dt'), el('dd')), (item, [name, value, isMono]) => {
    set(item.firstChild, name);
    set(item.lastChild, value);
    item.lastChild.className = isMono ? 'mono' : '';
  });
}

function processFacts({ run, isLatest, pipeline: p, usage, now }) {
  const { outcome, started_at: started, stopped_at: stopped, oom_kills: oom, memory_peak_bytes: peak, max_rss_kb: rss, cpu_user_ms: user } = run;
  const at = (time) => time && localTime(Date.parse(time), now);
  const list = (...items) => items.filter(Boolean).join(', ');
  const isPaused = isLatest && p.state === 'paused', isAlive = isLatest && p.state !== 'stopped';
  const paused = run.paused_ms + (isPaused ? Math.max(0, now - Date.parse(p.paused_at)) : 0);
  const active = Math.max(0, (stopped ? Date.parse(stopped) : now) - Date.parse(started) - paused);
  const code = outcome?.exit_code ?? null;
  return [
    [D.folder, run.cwd, true],
    [D.pid, run.pid && D.pidOf(run.pid, run.containment)],
    [D.startedBy, run.started_by ? fromWhere(run.started_by).replace(/^by /, '') : D.unknown],
    [D.started, at(started ?? run.created_at)],
    [D.ended, at(stopped)],
    [D.active, started && list(isAlive ? D.soFar(active) : took(active), paused >= 500 && D.paused(paused))],
    [D.exit, code === null ? outcome?.signal_name ?? (outcome?.signal && `${outcome.signal}`) : D.exitCode(code)],
    [D.error, run.error && stop(run.error)],
    [D.cpuTime, user !== null && list(D.user(user), D.system(run.cpu_system_ms))],
    [D.memory, list(usage && bytes(usage.memory_bytes), peak && D.peak(peak), rss && D.largest(rss * 1024), oom > 0 && D.oom(oom))],
    [D.grace, run.grace_s == null ? D.serversGrace : D.seconds(run.grace_s)],
  ];
}

// An event never changes.
function showEvent(item, event, now) {
  if (item.firstChild) return;
  const at = Date.parse(event.at), [word, name, rest] = happening(event), picture = icon(name);
  tint(picture, name);
  item.append(el('time', { dateTime: event.at, title: localTime(at, now) }, clock(at)), picture, el('span', '', el('b', '', word), ' ', rest));
}

// ---- A phone's way to what has no tab there ---------------------------------------------------------------------------------------

const more = (c) => [el('ul', 'more', ['usage', 'details'].map((tab) =>
  el('li', '', el('a', { href: c.address({ run: c.route.run, tab }) }, T[tab], icon('right')))))];

// ---- The list of keys -------------------------------------------------------------------------------------------------------------

export function showHelp(dialog) {
  if (!dialog.firstChild) {
    dialog.append(el('h2', { id: 'help-title' }, D.helpTitle),
      el('dl', 'keys', D.help.flatMap(([keys, words]) =>
        [el('dt', '', keys.split(' ').flatMap((key) => [el('kbd', '', key), ' '])), el('dd', '', words)])),
      el('div', 'foot', el('span', 'grow'), button('b', T.close, () => dialog.close())));
  }
  if (!dialog.open) dialog.showModal();
}
