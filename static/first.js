// The page of the first visit, while there was no run at all: the scripts that can be started, and the commands that do the same from elsewhere.

import { onMeantClick } from './controls.js';
import { button, code, copyLine, el, get, icon } from './copy.js';
import { START as S, bytes, command, localTime, visible } from './words.js';

const SHOWN_MAX = 30;       // scripts here; the form lists all
const FRESH_MS = 10000;     // the scripts are listed again with a state that comes later than this

let section = null;
let c = null;               // the context of the last state
let answer = null;          // the scripts, or why there are none
let readAt = -Infinity;
let isTokenNeeded = null;
let isReading = false;
let isStarting = false;
let drawn = '';

// Shows the scripts. Called with each state.
export function showFirst(element, context) {
  [section, c] = [element, context];
  if (c.mayAct && performance.now() - readAt > FRESH_MS) read();
  draw();
}

async function read() {
  if (isReading) return;
  isReading = true;
  const [scripts, login] = await Promise.all([get(c.ask, 'api/pipeline/scripts'), isTokenNeeded ?? get(c.ask, 'api/session')]);
  isTokenNeeded = login.session?.token_needed ?? isTokenNeeded;
  // What is shown stays if it can't be read again.
  if (!scripts.problem || !answer?.scripts) answer = scripts;
  readAt = performance.now();
  isReading = false;
  draw();
}

function draw() {
  const key = JSON.stringify([c.mayAct, c.mayOnlyLook, answer, isTokenNeeded, c.pipeline.default_script, new Date(c.now).getDate()]);
  if (drawn !== key) {
    drawn = key;
    const focused = section.contains(document.activeElement) ? document.activeElement.dataset.path : null;
    section.replaceChildren(el('div', { className: 'in' }, ...content()));
    [...section.querySelectorAll('[data-path]')].find(({ dataset }) => dataset.path === focused)?.focus();
  }
  const canStart = c.connected && c.pipeline.allowed.includes('start') && !isStarting;
  for (const starter of section.querySelectorAll('[data-path]')) starter.disabled = !canStart;
}

// A heading, and a sentence with `name` in the place of its braces.
function heading(words, text, name = '') {
  const [before, after] = text.split('{}');
  return el('div', { className: 'hd' }, el('h2', {}, words), el('p', {}, before, ...(after ? [code(name), after] : [])));
}

function content() {
  if (c.mayOnlyLook) return [heading(S.noRuns, S.youLook)];
  if (!c.mayAct || !answer) return [heading(S.choose, S.reading)];
  const { root, scripts = [], problem } = answer;
  if (problem) return [heading(S.choose, `${S.noList} ${problem}`), el('div', {}, retry())];
  if (!scripts.length) return [heading(visible(S.noScripts(root)), S.whatIsOne), el('div', {}, ...example(root), retry())];
  const isDefault = ({ path }) => path === c.pipeline.default_script;
  const sorted = [...scripts.filter(isDefault), ...scripts.filter((script) => !isDefault(script))];
  const [{ path: main }] = sorted, left = sorted.length - SHOWN_MAX;
  return [heading(S.choose, S.theseAreIn, root), el('div', {}, el('ul', {}, ...sorted.slice(0, SHOWN_MAX).map(row)), form(S.withArgs, main),
    left > 0 ? form(S.more(left, answer.truncated), main) : '', el('h3', {}, S.elsewhere), ...commands(main))];
}

function retry() {
  const again = button('b', S.tryAgain);
  again.addEventListener('click', () => {
    again.disabled = true;
    drawn = '';
    read();
  });
  return again;
}

function form(words, script) {
  const opener = button('link', words);
  opener.addEventListener('click', () => c.startForm({ script }));
  return opener;
}

function row({ path, size, modified_at: time }, n) {
  const at = Date.parse(time), starter = button(n ? 'b sm' : 'b sm prime', S.start);
  starter.dataset.path = path;
  starter.setAttribute('aria-label', visible(`${S.start} ${path}`));
  onMeantClick(starter, async () => {
    if (isStarting) return;
    isStarting = true;
    draw();
    await c.act('start', { script: path });
    isStarting = false;
    draw();
  });
  const changed = el('time', { dateTime: time, title: localTime(at, c.now) }, S.day(at, c.now));
  return el('li', {}, icon('file'), code(path), el('span', { dir: 'ltr' }, bytes(size)), changed, starter);
}

// The same from elsewhere. `curl --json` sends a POST.
function commands(script) {
  const address = new URL('api/pipeline/start', location.href.split('#')[0]).href;
  const token = isTokenNeeded ? ['-H', 'Authorization: Bearer TOKEN'] : [];
  return [command('autoappdev', ['start', script]), command('curl', [...token, '--json', JSON.stringify({ script }), address])]
    .map((text) => copyLine(code(text), () => text));
}

function example(root) {
  const shown = el('pre', { dir: 'ltr' }, S.script.trimEnd());
  return [el('p', {}, S.example), copyLine(shown, () => S.script, ''), el('p', {}, visible(S.saveIt(`${root}/hello.sh`)))];
}
