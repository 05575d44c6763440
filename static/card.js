// The card at the top of the log of a run that has ended: why, after how long and in which step, its last lines that look like errors, and what
// one would do next. A run that ended well has none, unless it is not the latest one.

import { onMeantClick } from './controls.js';
import { set, tint, useIcon } from './head.js';
import { CARD, T, ending, verdict, visible } from './words.js';

const SVG = 'http://www.w3.org/2000/svg';

// `log` has the marks of the log: `errorMarks()`, `lastErrorLines(n)` and `nextMark(step)`.
export function makeCard(log) {
  const element = document.createElement('section');
  element.className = 'card';
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'i');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(document.createElementNS(SVG, 'use'));
  const make = (tag, className = '') => Object.assign(document.createElement(tag), { className });
  const header = make('header'), heading = make('h2'), text = make('p', 'text'), lines = make('pre'), row = make('div', 'row');
  const buttons = [[T.runAgain, 'b'], [CARD.jump, 'b'], [T.editAndRun, 'b']].map(([words, className]) =>
    Object.assign(make('button', className), { type: 'button', textContent: words }));
  const [again, jump, edit] = buttons;
  lines.setAttribute('aria-label', CARD.lastLines);
  lines.tabIndex = 0;
  header.append(svg, heading);
  row.append(...buttons);
  element.append(header, text, lines, row);
  let c = null;
  onMeantClick(again, () => c.act('start', { again: c.id }));
  onMeantClick(edit, () => c.startForm({ run: c.id }));
  jump.addEventListener('click', () => log.goToMark(log.errorMarks()[0]));

  // Returns the element, or null where the run needs no card.
  function update(context) {
    c = context;
    const { run, isLatest, progress, pipeline } = c;
    const tone = run?.outcome ? ending(run.outcome).tone : null;
    if (tone === null || isLatest && (pipeline.state !== 'stopped' || ['succeeded', 'stopped'].includes(tone))) return null;
    const [title, sentence] = verdict(run, progress, c.now);
    set(heading, title);
    set(text, sentence);
    tint(element, tone);
    useIcon(svg, tone);
    const isBad = !['succeeded', 'stopped'].includes(tone);
    const found = isBad ? log.lastErrorLines(6) : [];
    const said = found.map(visible).join('\n');
    if (lines.textContent !== said) lines.textContent = said;
    lines.hidden = !said;
    const canStart = c.connected && c.mayAct && pipeline.allowed.includes('start');
    again.hidden = isLatest || !canStart;
    edit.hidden = !canStart;
    jump.hidden = !isBad || !log.errorMarks().length;
    row.hidden = buttons.every((button) => button.hidden);
    return element;
  }

  return { update };
}
