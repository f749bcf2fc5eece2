/** The word that was most likely meant: at most a third of its letters wrong. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const scored = known.map((one) => ({ one, distance: distance(word.toLowerCase(), one.toLowerCase()) }));
  const best = scored.sort((a, b) => a.distance - b.distance)[0];
  return best !== undefined && best.distance <= Math.max(1, Math.floor(word.length / 3)) ? best.one : undefined;
}

/** Levenshtein's: letters to insert, delete or replace. */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 20) return 20;
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
