// The page of the first visit, while there was no run at all: the scripts that can be started, and the commands that do the same from elsewhere.

import { acting, button, cli, code, copyLine, curl, el, get, icon } from './parts.js';
import { START as S, bytes, localTime, visible } from './words.js';

// The form lists all scripts.
const SHOWN_MAX = 30;
// The scripts are listed again with a state that comes later than this.
const FRESH_MS = 10000;

let section, c, answer, isTokenNeeded, drawn;
let readAt = -Infinity;
let isStarting = false;

// Shows the scripts. Called with each state.
export function showFirst(element, context) {
  [section, c] = [element, context];
  if (c.mayAct && performance.now() - readAt > FRESH_MS) read();
  draw();
}

async function read() {
  readAt = performance.now();
  const [scripts, login] = await Promise.all([get(c.ask, 'api/pipeline/scripts'), isTokenNeeded ?? get(c.ask, 'api/session')]);
  isTokenNeeded = login.session?.token_needed ?? isTokenNeeded;
  // What is shown stays if it can't be read again.
  if (!scripts.problem || !answer?.scripts) answer = scripts;
  draw();
}

function draw() {
  const key = JSON.stringify([c.mayAct, c.mayOnlyLook, answer, isTokenNeeded, c.pipeline.default_script, new Date(c.now).getDate()]);
  if (drawn !== key) {
    drawn = key;
    const focused = section.contains(document.activeElement) && document.activeElement.dataset.path;
    section.replaceChildren(el('div', 'in', content()));
    starters().find(({ dataset }) => dataset.path === focused)?.focus();
  }
  for (const starter of starters()) starter.disabled = !c.connected || !c.pipeline.allowed.includes('start') || isStarting;
}

const starters = () => [...section.querySelectorAll('[data-path]')];
const heading = (words, ...text) => el('div', 'hd', el('h2', '', words), el('p', '', ...text));

function content() {
  if (c.mayOnlyLook) return heading(S.noRuns, S.youLook);
  if (!c.mayAct || !answer) return heading(S.choose, S.reading);
  const { root, scripts = [], problem, truncated } = answer;
  const retry = button('b', S.tryAgain, read);
  if (problem) return [heading(S.choose, `${S.noList} ${problem}`), el('div', '', retry)];
  if (!scripts.length) {
    return [heading(S.noScripts(root), S.whatIsOne), el('div', '', el('p', '', S.example),
      copyLine(el('pre', { dir: 'ltr', textContent: S.script.trimEnd() }), () => S.script, ''), el('p', '', S.saveIt(`${root}/hello.sh`)), retry)];
  }
  const byDefault = c.pipeline.default_script;
  const sorted = [...scripts].sort((a, b) => (b.path === byDefault) - (a.path === byDefault));
  const script = sorted[0].path, left = sorted.length - SHOWN_MAX;
  const opener = (words) => button('link', words, () => c.startForm({ script }));
  const token = isTokenNeeded ? ['-H', 'Authorization: Bearer TOKEN'] : [];
  const [before, after] = S.theseAreIn.split('{}');
  return [heading(S.choose, before, code(root), after), el('div', '', el('ul', '', sorted.slice(0, SHOWN_MAX).map(row)), opener(S.withArgs),
    left > 0 && opener(S.more(left, truncated)), el('h3', '', S.elsewhere),
    [cli({ script }), curl({ script }, ...token)].map((text) => copyLine(code(text), () => text)))];
}

function row({ path, size, modified_at: time }, n) {
  const at = Date.parse(time);
  // The page has one filled button: the top bar's, if there is a script for it.
  const starter = acting(n || c.pipeline.default_script ? 'b sm' : 'b sm prime', S.start, async () => {
    isStarting = true;
    draw();
    await c.act('start', { script: path });
    isStarting = false;
    draw();
  });
  starter.dataset.path = path;
  starter.setAttribute('aria-label', visible(`${S.start} ${path}`));
  return el('li', '', icon('file'), code(path), el('span', { dir: 'ltr' }, bytes(size)),
    el('time', { dateTime: time, title: localTime(at, c.now) }, S.day(at, c.now)), starter);
}
