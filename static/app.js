// The status page's behaviour: follows the pipeline over the HTTP API, shows it, and sends the four actions. The log is feed.js (where it
// comes from), log.js, find.js and ansi.js (what becomes of it).
//
// It holds no rule of the life cycle: which action is possible now is what the API lists in `allowed`. What it cannot know it
// calls unknown: without a connection nothing old is shown as the present. Two loops run. One follows the event stream, which brings the
// log and the state. The other asks for the state where there is no stream: first, after a lost connection, and with a long poll while
// streams are not to be had. While the page is hidden there is no stream, and one of all hidden pages waits for the state (quiet.js). Of
// two states from one server the one with the lower version is dropped. Text from outside is put in by textContent only.

import { makeFeed } from './feed.js';
import { searchHooks } from './find.js';
import { attach } from './log.js';
import { enterByLink, isLearned, learn, linkProof, lock, mayOnlyLook, proof } from './login.js';
import { isNew, onMeantClick, watchForFocus } from './meant.js';
import { clearNotice, notify, showError } from './notice.js';
import { showProgress, tick } from './progress.js';
import { makeQuiet } from './quiet.js';
import { OWN, identify, isOfThisProject, project, serverId, toThisServer, whatHasMoved } from './server.js';
import { TONES, ago, clock, localTime, look, sentence, title, visible } from './words.js';

const ACTIONS = ['start', 'pause', 'resume', 'stop', 'kill'];
const TIMES = ['started_at', 'paused_at', 'resumed_at', 'stopped_at'];
const WAIT_S = 25;           // one long poll
const WAIT_PENDING_S = 1;    // while an action is under way: its end may change no version
const ANSWER_MS = 5000;      // how much longer than asked an answer may take
const BACKOFF_MS = [1000, 10000];
const ACT_MS = 3700e3;       // an action's answer: a stop may wait for the longest grace
const CHECK_MS = 25000;      // how often it is checked that the log-in is still good
const STALE_MS = 40000;      // an older state is not shown as current when a hidden page becomes visible again
const SETTLE_MS = 700;       // after a click no button works, so that a double click is not two actions
const ASK_MS = 400;          // how long a confirmation is disabled, so that a double click does not confirm

// All icons, loaded in advance: without a connection they cannot be fetched.
const icons = Object.fromEntries(TONES.map((tone) => [tone, Object.assign(new Image(), { src: `static/icon-${tone}.svg` })]));

const $ = (id) => document.getElementById(id);
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
let looks = null;         // the words, the icon and the title that are shown
let latest = null;        // the latest run, where a start would start it again
let asking = null;        // the run about which that is being asked
let question = null;      // what the open question is about
let answerable;           // the timer from which on it takes a yes
let clicked = -Infinity;  // when an action was last sent, by performance.now()
let awaited = 0;          // the version of the state from which on buttons work again after that
let said;                 // what a screen reader was last told
const asked = new Set();  // the actions sent and not yet answered

function set(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

// ---- The state -------------------------------------------------------------------------------------------------------

const now = () => Date.now() + skew;

function show() {
  const p = pipeline;
  lock(locked);
  // Before the first log-in there is nothing else to show.
  document.body.toggleAttribute('data-locked', locked && !p);
  if (!p) return showConnection();
  document.body.dataset.state = connected ? p.state : 'unknown';
  showLook();
  showConditions();
  // A detail that is also a condition is shown only once.
  const detail = connected && p.detail ? sentence(p.detail) : '';
  set($('detail'), detail);
  $('detail').hidden = !detail;
  set($('script'), p.script || '');
  $('script').title = visible(p.script || '');
  set($('run-id'), String(p.run_id ?? '–'));
  set($('pid'), String(p.pid ?? '–'));
  showTimes();
  showProgress(p.run_id, p.progress ?? null, p, now(), ask);
  showDownloads();
  learnLatest();
  showButtons();
  showConnection();
  if (connected) say(`Pipeline: ${looks.word}${looks.how ? `, ${looks.how}` : ''}.`);
  else if (locked) say('The server asks for its token.');
  else if (failures) say('No connection to the server.');
}

// The word, the details, the icon and the title, which agree with each other. The details change with time.
function showLook() {
  looks = look(pipeline, now(), connected ? null : heard);
  document.body.dataset.tone = looks.tone;
  set($('state'), looks.word);
  set($('left'), looks.left ?? '');
  set($('status'), looks.details);
  const icon = icons[looks.tone].getAttribute('src');
  for (const [element, key] of [[$('icon'), 'href'], [$('symbol'), 'src']]) {
    if (element.getAttribute(key) !== icon) element.setAttribute(key, icon);
  }
  const words = locked && !connected ? `Log in · ${title(looks, pipeline)}` : title(looks, pipeline);
  if (document.title !== words) document.title = words;
}

// The conditions that the server reports. Without a connection they may be outdated.
function showConditions() {
  const shown = connected ? (pipeline.conditions ?? []).filter(({ code }) => !(code === 'pause_not_holding' && pipeline.detail)) : [];
  const key = JSON.stringify(shown);
  const list = $('conditions');
  list.hidden = !shown.length;
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(...shown.map(({ since, detail }) => {
    const [item, time] = [document.createElement('li'), document.createElement('time')];
    time.dateTime = time.title = since;
    time.textContent = `Since ${localTime(Date.parse(since), now())}.`;
    item.append(`${visible(sentence(detail))} `, time);
    return item;
  }));
}

function showTimes() {
  for (const key of TIMES) {
    const at = pipeline[key], element = $(key.replace('_', '-'));
    if (at) {
      const ms = Date.parse(at);
      set(element, `${localTime(ms, now())} (${ago(Math.max(0, now() - ms))})`);
      element.dateTime = element.title = at;
    } else {
      set(element, '–');
      element.removeAttribute('datetime');
      element.removeAttribute('title');
    }
  }
}

// The whole log of the run: as it is kept, with times, and as the pipeline wrote it.
function showDownloads() {
  $('downloads').hidden = pipeline.run_id === null;
  const log = `api/runs/${pipeline.run_id}/log?download=1`;
  for (const [id, href] of [['download', log + linkProof()], ['download-plain', `${log}&timestamps=0${linkProof()}`]]) {
    if ($(id).getAttribute('href') !== href) $(id).setAttribute('href', href);
  }
}

// ---- The buttons -----------------------------------------------------------------------------------------------------

// The script of the next start, which the button shows and sends: the configured script; else the latest run's, with its arguments and in
// its folder. Null if there is neither, or if it is not known yet.
function starts() {
  const { default_script: script, run_id } = pipeline;
  if (script === undefined) return { words: 'the pipeline', body: {} };
  if (script !== null) return { words: script, body: { script } };
  if (latest?.id !== run_id) return null;
  return { words: [latest.script, ...latest.args.map((arg) => (/^[\w@%+=:,./-]+$/.test(arg) ? arg : JSON.stringify(arg)))].join(' '),
    body: { script: latest.script, args: latest.args, cwd: latest.cwd } };
}

// Asks what ran last, where that is what could be started. After a failure it is asked again with the next word on the state.
async function learnLatest() {
  const { default_script, run_id, allowed } = pipeline;
  if (!connected || default_script !== null || run_id === null || !allowed.includes('start')) return;
  if (latest?.id === run_id || asking === run_id) return;
  asking = run_id;
  try {
    const { ok, body } = await ask(`api/runs/${run_id}`, null, ANSWER_MS);
    if (ok) latest = body.run;
  } catch {
    // The state's loop finds out what is wrong.
  }
  if (asking === run_id) asking = null;
  showButtons();
}

// Enables what the API allows. A button that had the focus and is disabled hands it to the group around it: the next Tab goes
// to the first button that works, and a repeated Enter does nothing. Each button has a fixed place: none turns into another.
function showButtons() {
  document.body.toggleAttribute('data-look', mayOnlyLook);
  const isStopping = pipeline.pending === 'stop';
  const can = (action) => connected && pipeline.allowed.includes(action);
  const ready = connected && isLearned && !mayOnlyLook && pipeline.version >= awaited && !isNew() && performance.now() - clicked >= SETTLE_MS;
  const start = starts();
  set($('what'), start?.words ?? '');
  $('start').title = start ? visible(`Start ${start.words}`) : '';
  $('start').hidden = !start && connected && pipeline.allowed.includes('start');
  $('no-script').hidden = !can('start') || !!start || mayOnlyLook || pipeline.run_id !== null && asking === pipeline.run_id;
  $('kill').hidden = !(isStopping && can('stop'));
  const works = { start: can('start') && !!start, pause: can('pause'), resume: can('resume'), stop: can('stop') && !isStopping,
    kill: isStopping && can('stop') };
  for (const action of ACTIONS) {
    const button = $(action);
    const enabled = ready && works[action] && !asked.has(action);
    const focused = document.activeElement === button;
    button.disabled = !enabled;
    if (focused && (!enabled || button.hidden)) $('controls').focus({ preventScroll: true });
  }
  // The action is no longer needed or no longer possible.
  if ($('sure').open && (!works[question.action] || pipeline.run_id !== question.run)) $('sure').close();
}

// Asks for confirmation before it ends a run. The confirming button works only after a moment, so that a double click does not confirm.
function askWhether(action) {
  question = { action, run: pipeline.run_id };
  const isKill = action === 'kill';
  const name = `run ${pipeline.run_id}${pipeline.script ? ` of ${pipeline.script}` : ''}`;
  set($('sure-title'), isKill ? `Kill ${name} now?` : `Stop ${name}?`);
  set($('sure-text'), isKill ? 'All its processes end at once (SIGKILL), without a chance to save anything.'
    : 'All its processes are asked to end (SIGTERM). Any that are still there after the grace period are killed.');
  set($('yes'), isKill ? 'Kill now' : 'Stop');
  $('sure').classList.toggle('kill', isKill);
  $('yes').disabled = true;
  $('sure').showModal();
  clearTimeout(answerable);
  answerable = setTimeout(() => { $('yes').disabled = false; }, ASK_MS);
}

function showConnection() {
  const banner = $('connection');
  banner.hidden = connected || locked || !failures;
  if (!banner.hidden) {
    set(banner, (refusal ? `The server can’t tell the state: ${refusal}; trying again.`
      : `No connection to the server since ${clock(heard)}; trying again.`)
      + (pipeline ? ' Until then this page can’t tell what the pipeline is doing.' : ''));
  }
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

const whoAnswers = (signal) => identify((path) => ask(path, signal, ANSWER_MS, null, {}));

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
function keep(state, server) {
  if (server !== source) awaited = 0;
  else if (state.version < pipeline?.version) return;
  if (pipeline?.run_id === state.run_id) state.progress = later(pipeline.progress, state.progress);
  [pipeline, source] = [state, server];
}

// Takes a state from the server.
function take(state) {
  keep(state, serverId());
  connected = true;
  failures = 0;
  show();
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
  const wait = pipeline?.pending || asked.size ? WAIT_PENDING_S : WAIT_S;
  // A hidden page may have the state from another page, and not know the server yet.
  const isNew = !(connected && serverId());
  const known = connected && !doubt ? pipeline.version : null;
  doubt = false;
  let answer;
  refusal = '';
  try {
    if (isNew && !await whoAnswers(signal)) return Infinity;
    answer = known === null ? await ask('api/pipeline', signal, ANSWER_MS)
      : await ask(`api/pipeline?after=${known}&wait=${wait}`, signal, ANSWER_MS + wait * 1000);
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
    show();
    if (pipeline) share();
    // A log-in begins again, here or in another tab that is left for this one.
    return answer?.status === 401 ? Infinity : pause;
  }
  locked = false;
  take(answer.body.pipeline);
  if (isNew) {
    check();
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
  await learn(ask);
  if (locked) refresh();
  show();
  if (pipeline) share();
}

async function act(action) {
  const body = action === 'start' ? starts()?.body : action === 'kill' ? { grace_s: 0 } : {};
  asked.add(action);
  clicked = performance.now();
  awaited = pipeline.version + 1;
  clearNotice();
  showButtons();
  setTimeout(() => pipeline && showButtons(), SETTLE_MS + 20);
  try {
    const post = () => ask(`api/pipeline/${action === 'kill' ? 'stop' : action}`, null, ACT_MS, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    let posted = await post();
    if (posted.body.error === 'other_server' && await whoAnswers(null)) posted = await post();
    const { ok, status, body: answer } = posted;
    awaited = (ok && answer.version) || 0;
    if (!ok) showError(action, { error: answer.error, detail: answer.detail || `the server answered ${status}` });
  } catch {
    awaited = 0;
    doubt = true;
    showError(action, { error: 'lost', detail: 'the connection broke before the server answered' });
  }
  asked.delete(action);
  // The stream brings what the action led to.
  if (doubt || locked || !feed.isStreaming()) refresh();
  showButtons();
}

// Asks for the state now, without waiting for a change.
function refresh() {
  doubt = true;
  kickState();
}

// ---- Wiring ----------------------------------------------------------------------------------------------------------

for (const action of ['start', 'pause', 'resume']) onMeantClick($(action), () => act(action));
for (const action of ['stop', 'kill']) onMeantClick($(action), () => askWhether(action));
watchForFocus(() => pipeline && showButtons());

onMeantClick($('yes'), () => {
  $('sure').close();
  act(question.action);
});
$('no').addEventListener('click', () => $('sure').close());

$('dismiss').addEventListener('click', clearNotice);

document.addEventListener('visibilitychange', () => {
  if (!document.hidden && Date.now() - heard > STALE_MS) connected = false;
  if (pipeline) show();
  refresh();
  kickLog();
});

// A frozen page receives no updates, so its title shows the time of its state.
document.addEventListener('freeze', () => {
  if (pipeline) document.title += ` · as of ${clock(heard)}`;
});

addEventListener('online', refresh);

setInterval(() => {
  if (!pipeline || document.hidden) return;
  showLook();
  showTimes();
  if (connected) tick(now());
}, 1000);

setInterval(() => { if (connected && !document.hidden) check(); }, CHECK_MS);
// The browser does not say that a download was refused.
$('downloads').addEventListener('click', check);

const feed = makeFeed({
  ask, refresh, isConnected: () => connected && serverId() !== null,
  // It ends a request for the state that is under way.
  take(state) { take(state); doubt = false; kickState(); },
  hear: () => { heard = Date.now(); },
  showProgress({ run_id, progress }) {
    if (pipeline?.run_id !== run_id) return;
    pipeline.progress = later(pipeline.progress, progress);
    showProgress(run_id, pipeline.progress, pipeline, now(), ask);
    showLook();
  },
});
attach({ ...searchHooks, earlier: feed.earlier, atEnd: () => { if (feed.isResting()) kickLog(); } });

const quiet = makeQuiet({
  kick: () => kickState(),
  // Another page requests the state for all hidden ones.
  take(message) {
    if (locked) return;
    // Another project's server has this address now: nobody answers for this project.
    connected = isOfThisProject(message.project) && message.connected;
    if (isOfThisProject(message.project)) {
      ({ heard, skew } = message);
      keep(message.pipeline, message.server);
    }
    if (connected) failures = 0;
    show();
  },
});

const moved = whatHasMoved();
if (moved) notify(...moved);
const entry = enterByLink(enter, notify);
const kickState = loop(followState, true);
const kickLog = loop(feed.follow);
