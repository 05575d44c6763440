// The card at the top of the log of a run that has ended: why, after how long and in which step it ended, its last lines that look like errors, and
// buttons for what to do next. The latest run has no card if it ended well.

import { el, icon, set, setText, tint, useIcon } from './dom.js';
import { errorRows, lastErrorLines } from './log-rows.js';
import { reveal } from './log.js';
import { acting, button } from './parts.js';
import { CARD, ending, T, verdict, visible } from './words.js';

let c;
const picture = icon('idle'), heading = el('h2'), text = el('p', 'text'), lines = el('pre', { ariaLabel: CARD.lastLines, tabIndex: 0 });
const jump = button('b', CARD.jump, () => reveal(errorRows[0]));
const edit = acting('b', T.editAndRun, () => c.startForm({ run: c.id }));
const actions = el('div', 'actions', jump, edit);
const card = el('section', 'card', el('header', '', picture, heading), text, lines, actions);

// Returns the card, or null if the run needs none.
export function showCard(context) {
  c = context;
  const { run, isLatest, pipeline } = c;
  const tone = run?.outcome && ending(run.outcome).tone, isBad = !['succeeded', 'stopped'].includes(tone);
  if (!tone || isLatest && (pipeline.state !== 'stopped' || !isBad)) return null;
  const [title, sentence] = verdict(run, c.progress, c.now);
  set(heading, title);
  set(text, sentence);
  tint(card, tone);
  useIcon(picture, tone);
  // If something outside ended the run, its log does not contain the reason.
  const said = tone === 'failed' ? lastErrorLines(6).map((line) => visible(line.slice(0, 500))).join('\n') : '';
  setText(lines, said);
  lines.hidden = !said;
  edit.hidden = !c.connected || !c.mayAct || !pipeline.allowed.includes('start');
  jump.hidden = !isBad || !errorRows.length;
  actions.hidden = edit.hidden && jump.hidden;
  return card;
}
