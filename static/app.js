// The page's behaviour: it follows the pipeline over the HTTP API and hands what it learned to the parts of the page: head.js (state, banners,
// progress), controls.js (the actions), rail.js (the history), feed.js and log.js (the log), and the panes beside it.
//
// It holds no rule of the life cycle: which action is possible now is what the API lists in `allowed`. What it cannot know it
// calls unknown: without a connection nothing old is shown as the present. Two loops run. One follows the event stream, which brings the
// log and the state. The other asks for the state where there is no stream: first, after a lost connection, and with a long poll while
// streams are not to be had. While the page is hidden there is no stream, and one of all hidden pages waits for the state (session.js). Of
// two states from one server the one with the lower version is dropped. Text from outside is put in by textContent only.

import { noticeEnd } from './alert.js';
import { blank, classes, steps, write } from './ansi.js';
import { showCard } from './card.js';
import { makeControls } from './controls.js';
import { showDetails, showHelp } from './details.js';
import { $, label } from './dom.js';
import { isTyping, makeFeed } from './feed.js';
import { notify, showHead, tick } from './head.js';
import { append, attach, prepend, rowAt, rowBounds } from './log-rows.js';
import { setCard, setRun, setSteps } from './log.js';
import { openPair } from './pair.js';
import { makeRail } from './rail.js';
import {
  enterByLink, identify, isLearned, isOfThisProject, learnRole, lock, makeQuiet, mayOnlyLook, OWN, project, proof, serverId, STATE_MS, toThisServer,
  whatHasMoved,
} from './session.js';
import { openForm, showFirst } from './start.js';
import { showTime } from './time.js';
import { clock, look, row, since, T, title, took, visible } from './words.js';

const WAIT_S = 25;           // one long poll
const WAIT_PENDING_S = 1;    // while an action is under way: its end may change no version
const BACKOFF_MS = [1000, 10000];
const CHECK_MS = 25000;      // how often it is checked that the log-in is still good
const STALE_MS = 40000;      // an older state is not shown as current when a hidden page becomes visible again
const FIRST_LOOK_MS = 1500;  // until then nothing is loaded that the first look does not need
const RUN_MS = 1000;         // how often the shown run is asked for at most
const BUFFERED_MS = 5000;    // a Python script that has printed nothing until then may have its output held back

// Of two words on one run's progress: an answer and the stream may pass each other.
const later = (a, b) => (a && !(b?.at >= a.at) ? a : b);

let pipeline = null;      // the latest state; kept while disconnected, as the last known
let source;               // the id of the server that it is of
let connected = false;
let failures = 0;         // state requests in a row without a state
let refusal = '';         // what the server said in place of a state
let locked = false;       // the server asks for its token
let doubt = false;        // the state is to be asked for, with an answer at once
let heard = Date.now();   // when the server last answered as it should, by this device's clock
let skew = 0;             // the server's clock minus this device's, in ms
let said;                 // what a screen reader was last told
let run = null;           // the run that is shown, as the history has it
let runKey = '';          // for which run and state that was asked
let isAskingRun = false;

const now = () => Date.now() + skew;

// ---- The address: #/runs/47?tab=steps&line=1205&find=loss. Without a run it is the latest one, whichever that is. -----------------------------

function readRoute(hash) {
  const [, id, query] = /^#\/(?:runs\/(\d+))?(?:\?(.*))?$/.exec(hash) ?? [];
  const { tab = 'log', line, find = '' } = Object.fromEntries(new URLSearchParams(query ?? ''));
  // No longer than the field and the server take it.
  return { run: id ? Number(id) : null, tab, line: Number(line) || null, find: find.slice(0, 200) };
}

function address({ run = null, tab = 'log', line = null, find = '' }) {
  const params = new URLSearchParams();
  if (tab !== 'log') params.set('tab', tab);
  if (line) params.set('line', line);
  if (find) params.set('find', find);
  return `#/${run === null ? '' : `runs/${run}`}${params.size ? `?${params}` : ''}`;
}

let route = readRoute(location.hash);

// Changes a part of the address without a step in the history.
function adjust(changes) {
  route = { ...route, ...changes };
  history.replaceState(history.state, '', address(route));
}

// ---- The state -------------------------------------------------------------------------------------------------------

// Everything that the parts of the page show or need.
function context() {
  const id = route.run ?? pipeline?.run_id ?? null;
  const isLatest = id === pipeline?.run_id;
  const shown = run?.id === id ? run : null;
  const brief = shown ?? rail.find(id);
  // The latest run as the state has it, any other as the history has it: that one is over.
  const state = isLatest || !brief ? pipeline : { ...brief, state: 'stopped', pending: null };
  return { pipeline, state, connected, locked, heard, failures, refusal, id, isLatest, run: shown, brief, route, address,
    progress: (isLatest ? pipeline?.progress : shown?.progress) ?? null, usage: (isLatest && pipeline?.usage) || null,
    mayAct: isLearned && !mayOnlyLook, mayOnlyLook, isStreaming: feed.isStreaming(), now: now(), ask, act: controls.act, startForm, pair, adjust };
}

function showAll() {
  lock(locked);
  // Before the first log-in there is nothing else to show.
  document.body.toggleAttribute('data-locked', locked && !pipeline);
  const c = context();
  document.body.dataset.state = connected && pipeline ? pipeline.state : 'unknown';
  document.body.dataset.view = route.tab;
  const looks = showHead(c);
  const isFirst = pipeline?.run_id === null && connected;
  // What stands in place of everything else is the page's main part.
  $('entry').hidden = !locked && !isFirst;
  $('entry').role = isFirst || !pipeline ? 'main' : 'region';
  if (!pipeline) return;
  if (connected) noticeEnd(pipeline, looks);
  controls.show(c);
  $('first').hidden = !isFirst;
  $('pair').hidden = !c.mayAct;
  $('body').hidden = $('progress').hidden = pipeline.run_id === null;
  if (isFirst) showFirst($('first'), c);
  rail.show(c);
  learnRun();
  feed.show(c);
  if (c.id !== null) setRun({ id: c.id });
  showLog(c, looks);
  showPane(c);
  if (connected) say(`Pipeline: ${looks.word}${looks.detail && looks.tone !== 'running' && looks.tone !== 'stopping' ? `, ${looks.detail}` : ''}.`);
  else if (locked) say(T.serverAsks);
  else if (failures) say(T.noConnection);
}

// What the log shows of the run itself: its steps, and the card of one that has ended.
function showLog(c, looks) {
  if (!c.isLatest && !c.run || c.id === null) return;
  const isAlive = c.isLatest && c.pipeline.state !== 'stopped';
  const { script, env_names: names } = c.run ?? {};
  const isBuffered = script?.endsWith('.py') && !names?.includes('PYTHONUNBUFFERED') && c.now - Date.parse(c.pipeline.started_at) > BUFFERED_MS;
  setSteps(c.progress, { isAlive, isBuffered, tone: c.isLatest ? looks.tone : row(c.run).tone, now: c.now });
  setCard(() => showCard(c));
}

// The panes beside the log. A phone shows two of them under one tab.
const PANES = { steps: showTime, usage: showTime, details: showDetails };

function showPane(c) {
  const { tab } = route, shown = tab === 'more' ? ['usage', 'details'] : [tab];
  for (const name of Object.keys(PANES)) {
    $(`pane-${name}`).hidden = !shown.includes(name);
    if (shown.includes(name)) PANES[name]($(`pane-${name}`), c);
  }
  const isLog = tab !== 'more' && !PANES[tab];
  $('pane-log').hidden = !isLog;
  $('log-tools').classList.toggle('off', !isLog);
}

// The form for a start: `given` is a script, or a run to edit.
function startForm(given) {
  openForm($('form'), context(), given);
}

const pair = () => openPair(context());

// Asks for the run that is shown: again with each new state, if it is the latest one.
async function learnRun() {
  const id = route.run ?? pipeline?.run_id ?? null;
  const key = `${id} ${id === pipeline?.run_id ? pipeline.version : ''}`;
  // A live run's history can wait until the first look is there.
  const isFirstLook = id === pipeline?.run_id && pipeline.state !== 'stopped' && performance.now() < FIRST_LOOK_MS;
  if (id === null || !connected || isAskingRun || runKey === key || isFirstLook) return;
  isAskingRun = true;
  runKey = key;
  try {
    const { ok, status, body } = await ask(`api/runs/${id}`, null, STATE_MS);
    if (ok) run = body.run;
    else if (status === 404 && route.run === id) {
      notify(T.gone);
      location.hash = '#/';
    }
  } catch {
    // The state's loop finds out what is wrong.
    runKey = '';
  }
  setTimeout(() => {
    isAskingRun = false;
    learnRun();
  }, RUN_MS);
  showAll();
}

// Tells a screen reader, once for each change; the first state is on the page anyway.
function say(text) {
  if (said !== undefined && said !== text) $('announce').textContent = visible(text);
  said = text;
}

// ---- Asking the server -----------------------------------------------------------------------------------------------

// One request. Resolves to `{ok, status, body}` for every answer in JSON; throws where there was none.
async function ask(path, signal, timeoutMs, init, meantFor = toThisServer()) {
  const abort = new AbortController();
  const stop = () => abort.abort();
  const timer = setTimeout(stop, timeoutMs);
  signal?.addEventListener('abort', stop);
  if (signal?.aborted) stop();
  try {
    const headers = { ...init?.headers, ...OWN, ...meantFor, ...proof() };
    const response = await fetch(path, { cache: 'no-store', ...init, headers, signal: abort.signal });
    const body = await response.json();
    if (response.ok) heard = Date.now();
    if (response.status === 401) locked = true;
    const date = Date.parse(response.headers.get('Date'));
    // The header counts whole seconds, so a smaller difference is none.
    const off = date + 500 - Date.now();
    if (date) skew = Math.abs(off) < 2000 ? 0 : off;
    return { ok: response.ok, status: response.status, body };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

const whoAnswers = (signal) => identify((path) => ask(path, signal, STATE_MS, null, {}));

// Runs `step` for ever: it gets an abort signal and resolves to the pause before the next in ms. `kick` ends the request under
// way or the pause and begins the next step at once. While the page is hidden nothing runs, but what `isQuiet` enough.
function loop(step, isQuiet = false) {
  let abort, wake, kicked;
  (async () => {
    for (;;) {
      kicked = false;
      abort = new AbortController();
      let pause = Infinity;
      try {
        if (!document.hidden || isQuiet) pause = await step(abort.signal);
      } catch (error) {
        // A fault must not leave a state on the page that nobody looks at any more.
        console.error(error);
        pause = BACKOFF_MS[1];
      }
      if (!kicked && pause > 0) {
        await new Promise((resolve) => {
          wake = resolve;
          if (pause < Infinity) setTimeout(resolve, pause);
        });
      }
    }
  })();
  return () => { kicked = true; abort.abort(); wake?.(); };
}

// Keeps a state of this server, unless a later one is there already.
function keepState(state, server) {
  if (server !== source) controls.forget();
  else if (state.version < pipeline?.version) return;
  if (pipeline?.run_id === state.run_id) {
    state.progress = later(pipeline.progress, state.progress);
    state.usage = state.state === 'running' ? later(pipeline.usage, state.usage) : null;
  }
  [pipeline, source] = [state, server];
}

// Takes a state from the server.
function takeState(state) {
  keepState(state, serverId());
  connected = true;
  failures = 0;
  showAll();
  share();
}

// Tells the hidden pages.
const share = () => quiet.say({ pipeline, heard, skew, connected, project: project(), server: source });

async function followState(signal) {
  await entry;
  const rest = quiet.pause();
  if (rest > 0) return rest;
  if (connected && !doubt && feed.isStreaming()) return Infinity;
  const began = performance.now();
  const wait = pipeline?.pending || controls.isBusy() ? WAIT_PENDING_S : WAIT_S;
  // A hidden page may have the state from another page, and not know the server yet.
  const isNew = !(connected && serverId());
  const known = connected && !doubt ? pipeline.version : null;
  doubt = false;
  let answer;
  refusal = '';
  try {
    if (isNew && !await whoAnswers(signal)) return Infinity;
    answer = known === null ? await ask('api/pipeline', signal, STATE_MS)
      : await ask(`api/pipeline?after=${known}&wait=${wait}`, signal, STATE_MS + wait * 1000);
    // A server that was started since then. It is identified at once; a second such answer is a failure like others.
    if (answer.body.error === 'other_server' && !failures) {
      connected = false;
      failures++;
      return 0;
    }
    if (!answer.ok) refusal = answer.body.detail || `it answered ${answer.status}`;
    else if (!answer.body.pipeline) answer = null;
  } catch {
    answer = null;
  }
  if (!answer?.ok) {
    // Told to begin again, or hidden: no fault of the server. The request's own timeout does not abort this signal.
    if (signal.aborted) return 0;
    connected = false;
    if (locked) kickLog();
    const pause = Math.min(BACKOFF_MS[0] * 2 ** failures++, BACKOFF_MS[1]);
    showAll();
    if (pipeline) share();
    // A log-in begins again, here or in another tab that is left for this one.
    return answer?.status === 401 ? Infinity : pause;
  }
  locked = false;
  takeState(answer.body.pipeline);
  if (isNew) {
    if (!isLearned) check();
    kickLog();
  }
  // A server that does not wait must not be asked a thousand times a second.
  return pipeline.version === known && performance.now() - began < 200 ? 1000 : 0;
}

// Called after a login, which may have a different role.
function enter() {
  refresh();
  check();
}

// Learns what this page may do, and whether its log-in is still good.
async function check() {
  await learnRole(ask);
  if (locked) refresh();
  showAll();
  if (pipeline) share();
}

// Asks for the state now, without waiting for a change.
function refresh() {
  doubt = true;
  kickState();
}

// ---- Wiring ----------------------------------------------------------------------------------------------------------

label();

addEventListener('hashchange', () => {
  if (!/^#?(\/.*)?$/.test(location.hash)) return;
  route = readRoute(location.hash);
  document.body.classList.remove('show-rail');
  if (pipeline) showAll();
});

document.addEventListener('visibilitychange', () => {
  if (!document.hidden && Date.now() - heard > STALE_MS) connected = false;
  if (pipeline) showAll();
  refresh();
  kickLog();
});

// A frozen page receives no updates, so its title shows the time of its state.
document.addEventListener('freeze', () => {
  if (pipeline) document.title += ` · as of ${clock(heard)}`;
});

addEventListener('online', refresh);

// Keys of the page itself; the log has its own.
addEventListener('keydown', (event) => {
  if (isTyping(event) || event.repeat) return;
  if (event.key === '?') showHelp($('help'));
  else if (event.key === 'p') controls.press($('pause').hidden ? 'resume' : 'pause');
});
$('keys').onclick = () => {
  $('menu').hidePopover();
  showHelp($('help'));
};
$('pair').onclick = () => {
  $('menu').hidePopover();
  pair();
};

setInterval(() => {
  if (!pipeline || document.hidden) return;
  const c = context();
  showLog(c, tick(c));
  controls.tick(c);
  rail.tick(c);
  if ($('pane-log').hidden) showPane(c);
}, 1000);

setInterval(() => { if (connected && !document.hidden) check(); }, CHECK_MS);

const controls = makeControls({
  ask, check, whoAnswers, show: () => pipeline && showAll(), startForm,
  // The stream brings what an action led to, unless it is not known whether it did.
  after(isInDoubt) { if (isInDoubt || locked || !feed.isStreaming()) refresh(); },
});
const rail = makeRail({ ask, address });
const feed = makeFeed({
  ask, refresh, adjust, isConnected: () => connected && serverId() !== null,
  // It ends a request for the state that is under way.
  take(state) { takeState(state); doubt = false; kickState(); },
  hear: () => { heard = Date.now(); },
  restart: () => kickLog(),
  showSign(name, { run_id, [name]: sign }) {
    if (pipeline?.run_id !== run_id) return;
    pipeline[name] = later(pipeline[name], sign);
    tick(context());
  },
});

attach({ earlier: feed.earlier, atEnd: () => { if (feed.isResting()) kickLog(); } });

const quiet = makeQuiet({
  kick: () => kickState(),
  // Another page requests the state for all hidden ones.
  take(message) {
    if (locked) return;
    // Another project's server has this address now: nobody answers for this project.
    connected = isOfThisProject(message.project) && message.connected;
    if (isOfThisProject(message.project)) {
      ({ heard, skew } = message);
      keepState(message.pipeline, message.server);
    }
    if (connected) failures = 0;
    showAll();
  },
});

// Not with the first look, which has enough to load.
setTimeout(learnRun, FIRST_LOOK_MS + 20);

const moved = whatHasMoved();
if (moved) notify(...moved);
const entry = enterByLink(enter, notify);
const kickState = loop(followState, true);
const kickLog = loop(feed.follow);

// For the browser tests.
export { append, blank, classes, look, prepend, rowAt, rowBounds, since, steps, title, toThisServer, took, write };
