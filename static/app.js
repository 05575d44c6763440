// The page's behaviour: it follows the pipeline over the HTTP API and passes each state to the parts of the page: head.js (state, banners,
// progress), controls.js (the actions), rail.js (the history), feed.js and log.js (the log), and the panes beside the log.
//
// It contains no rule of the life cycle: the API lists the actions that are possible now in `allowed`. The page shows what it cannot know as
// unknown: without a connection it shows no old state as current. Two loops run. One follows the event stream, which brings the log and the
// state. The other requests the state while there is no stream: at first, after a lost connection, and with a long poll while no stream can be
// opened. A hidden page has no stream; one of all hidden pages waits for the state (session.js). Of two states of one server, the page drops the
// one with the lower version. Text from outside is inserted by textContent only.

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
const WAIT_PENDING_S = 1;    // while an action is pending: its end may not change the version
const BACKOFF_MS = [1000, 10000];
const CHECK_MS = 25000;      // how often the page checks that the login is still valid
const STALE_MS = 40000;      // an older state is not shown as current when a hidden page becomes visible again
const FIRST_LOOK_MS = 1500;  // until then, the page loads nothing that its first display does not need
const RUN_MS = 1000;         // the shortest time between two requests for the shown run
const BUFFERED_MS = 5000;    // a Python script that has printed nothing by then may be buffering its output

// Returns the later of two progress reports of one run: a response and the stream may overtake each other.
const later = (a, b) => (a && !(b?.at >= a.at) ? a : b);

let pipeline = null;      // the latest state; kept while disconnected, as the last known one
let source;               // the id of the server that the state came from
let connected = false;
let failures = 0;         // state requests in a row that brought no state
let refusal = '';         // what the server answered instead of a state
let locked = false;       // the server asks for its token
let doubt = false;        // the state must be requested, and answered at once
let heard = Date.now();   // when the server last answered successfully, by this device's clock
let skew = 0;             // the server's clock minus this device's, in ms
let said;                 // the last text for screen readers
let run = null;           // the run that is shown, from the history
let runKey = '';          // the run and the version of the state that `run` was requested for
let isAskingRun = false;

const now = () => Date.now() + skew;

// ---- The address: #/runs/47?tab=steps&line=1205&find=loss. Without a run, the address means the latest one. ------------------------------------

function readRoute(hash) {
  const [, id, query] = /^#\/(?:runs\/(\d+))?(?:\?(.*))?$/.exec(hash) ?? [];
  const { tab = 'log', line, find = '' } = Object.fromEntries(new URLSearchParams(query ?? ''));
  // The search field and the server accept no longer text.
  return { run: id ? Number(id) : null, tab, line: /^\d{1,15}$/.test(line) ? Number(line) : null, find: find.slice(0, 200) };
}

function address({ run = null, tab = 'log', line = null, find = '' }) {
  const params = new URLSearchParams();
  if (tab !== 'log') params.set('tab', tab);
  if (line) params.set('line', line);
  if (find) params.set('find', find);
  return `#/${run === null ? '' : `runs/${run}`}${params.size ? `?${params}` : ''}`;
}

let route = readRoute(location.hash);

// Changes a part of the address without a new entry in the browser's history.
function adjust(changes) {
  route = { ...route, ...changes };
  history.replaceState(history.state, '', address(route));
}

// ---- The state -------------------------------------------------------------------------------------------------------

// Returns everything that the parts of the page show or need.
function context() {
  const id = route.run ?? pipeline?.run_id ?? null;
  const isLatest = id === pipeline?.run_id;
  const shown = run?.id === id ? run : null;
  const brief = shown ?? rail.find(id);
  // The latest run is shown from the state, any other from the history: those have ended.
  const state = isLatest || !brief ? pipeline : { ...brief, state: 'stopped', pending: null };
  return { pipeline, state, connected, locked, heard, failures, refusal, id, isLatest, run: shown, brief, route, address,
    progress: (isLatest ? pipeline?.progress : shown?.progress) ?? null, usage: (isLatest && pipeline?.usage) || null,
    mayAct: isLearned && !mayOnlyLook, mayOnlyLook, isStreaming: feed.isStreaming(), now: now(), ask, act: controls.act, startForm, pair, adjust };
}

function showAll() {
  lock(locked);
  // Before the first login there is nothing else to show.
  document.body.toggleAttribute('data-locked', locked && !pipeline);
  const c = context();
  document.body.dataset.state = connected && pipeline ? pipeline.state : 'unknown';
  document.body.dataset.view = route.tab;
  const looks = showHead(c);
  const isFirst = pipeline?.run_id === null && connected;
  // If this box replaces everything else, it is the page's main landmark.
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

// Shows the parts of the log that describe the run: its steps, and the card after its end.
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

// Opens the start form. `given` is a script, or a run to edit.
function startForm(given) {
  openForm($('form'), context(), given);
}

const pair = () => openPair(context());

// Requests the run that is shown. The latest run is requested again with each new state.
async function learnRun() {
  const id = route.run ?? pipeline?.run_id ?? null;
  const key = `${id} ${id === pipeline?.run_id ? pipeline.version : ''}`;
  // A live run's history can wait until the first display is complete.
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

// Passes a text to screen readers, once for each change. They read the first state from the page itself.
function say(text) {
  if (said !== undefined && said !== text) $('announce').textContent = visible(text);
  said = text;
}

// ---- Requests --------------------------------------------------------------------------------------------------------

// Sends one request. Resolves to `{ok, status, body}` for every JSON response; throws if there was none.
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
    // The header has a resolution of one second, so smaller differences are ignored.
    const off = date + 500 - Date.now();
    if (date) skew = Math.abs(off) < 2000 ? 0 : off;
    return { ok: response.ok, status: response.status, body };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', stop);
  }
}

const whoAnswers = (signal) => identify((path) => ask(path, signal, STATE_MS, null, {}));

// Runs `step` forever. It gets an abort signal and resolves to the pause before the next step, in ms. `kick` ends the current request or pause
// and begins the next step at once. While the page is hidden, only steps with `isQuiet` run.
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
        // After an unexpected error the loop must continue, because otherwise the page would keep showing an outdated state.
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

// Keeps a state of this server, unless the page already has a later one.
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

// Sends the state to the hidden pages.
const share = () => quiet.say({ pipeline, heard, skew, connected, project: project(), server: source });

async function followState(signal) {
  await entry;
  const rest = quiet.pause();
  if (rest > 0) return rest;
  if (connected && !doubt && feed.isStreaming()) return Infinity;
  const began = performance.now();
  const wait = pipeline?.pending || controls.isBusy() ? WAIT_PENDING_S : WAIT_S;
  // A hidden page may have received its state from another page, without knowing the server yet.
  const isNew = !(connected && serverId());
  const known = connected && !doubt ? pipeline.version : null;
  doubt = false;
  let answer;
  refusal = '';
  try {
    if (isNew && !await whoAnswers(signal)) return Infinity;
    answer = known === null ? await ask('api/pipeline', signal, STATE_MS)
      : await ask(`api/pipeline?after=${known}&wait=${wait}`, signal, STATE_MS + wait * 1000);
    // The server has been restarted. It is identified at once; a second such answer counts as a failure.
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
    // The loop was kicked, or the page was hidden: no failure of the server. The request's own timeout does not abort this signal.
    if (signal.aborted) return 0;
    connected = false;
    if (locked) kickLog();
    const pause = Math.min(BACKOFF_MS[0] * 2 ** failures++, BACKOFF_MS[1]);
    showAll();
    if (pipeline) share();
    // A login starts the loop again, here or in another tab.
    return answer?.status === 401 ? Infinity : pause;
  }
  locked = false;
  takeState(answer.body.pipeline);
  if (isNew) {
    if (!isLearned) check();
    kickLog();
  }
  // If the server does not wait, the page must not poll it a thousand times a second.
  return pipeline.version === known && performance.now() - began < 200 ? 1000 : 0;
}

// Called after a login, which may have a different role.
function enter() {
  refresh();
  check();
}

// Requests what this page may do, and checks whether its login is still valid.
async function check() {
  await learnRole(ask);
  if (locked) refresh();
  showAll();
  if (pipeline) share();
}

// Requests the state now, without waiting for a change.
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

// The page's own keys. The log has others.
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
  // The stream brings the result of an action, unless it is unknown whether the action was done.
  after(isInDoubt) { if (isInDoubt || locked || !feed.isStreaming()) refresh(); },
});
const rail = makeRail({ ask, address });
const feed = makeFeed({
  ask, refresh, adjust, isConnected: () => connected && serverId() !== null,
  // Kicking the loop ends a pending request for the state.
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
    // Another project's server has this address now, so this page has no connection to its own project.
    connected = isOfThisProject(message.project) && message.connected;
    if (isOfThisProject(message.project)) {
      ({ heard, skew } = message);
      keepState(message.pipeline, message.server);
    }
    if (connected) failures = 0;
    showAll();
  },
});

// Later than the first display, which has enough to load.
setTimeout(learnRun, FIRST_LOOK_MS + 20);

const moved = whatHasMoved();
if (moved) notify(...moved);
const entry = enterByLink(enter, notify);
const kickState = loop(followState, true);
const kickLog = loop(feed.follow);

// For the browser tests.
export { append, blank, classes, look, prepend, rowAt, rowBounds, since, steps, title, toThisServer, took, write };
