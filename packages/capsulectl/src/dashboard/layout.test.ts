import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { stripVTControlCharacters } from "node:util";
import { Phase } from "@capsule/api";
import { layout, type Size } from "./layout.ts";
import { rendered, textOf } from "./line.ts";
import { after, aModel, event, feed, info, now, workload } from "./model.test-support.ts";
import type { Model } from "./model.ts";
import { widthOf } from "./text.ts";
import type { LogMessage } from "./update.ts";

const small: Size = { columns: 80, rows: 24 };
const large: Size = { columns: 120, rows: 40 };

/** Checks on the way that the screen has exactly its size. */
function screen(model: Model, size: Size): string[] {
  const texts = layout(model, size, now).map(textOf);
  assert.equal(texts.length, size.rows);
  for (const text of texts) assert.equal(widthOf(text), size.columns, JSON.stringify(text));
  return texts.map((text) => text.trimEnd());
}

function log(of: LogMessage, name = "db"): Parameters<typeof after>[1] {
  return { kind: "logs", capsule: 0, workload: name, of };
}

test("80 × 24", () => {
  assert.deepEqual(screen(aModel(), small), [
    " Capsule [1 nuc-1] 2 nuc-2!",
    " 192.0.2.1:50000  up  nuc 1.2.3 (machine)  up 1d2h  1 of 2 running",
    " CPU 30% of 2, load 0.50                MEM 25%, 2.0 GiB of 8.0 GiB",
    "                                    ▅▂",
    "                                 ▂▃▆██▅                                 ▄▄▄▄▄▄",
    " POOL default 40% of 100 GiB            NET ↓2.0 KiB/s ↑0 B/s",
    "                                                                        ██████",
    "                                 ▆▆▆▆▆▆                                 ██████",
    " ─*WORKLOAD          PHASE         CPU    MEMORY RSTRT     AGE  MESSAGE",
    "> db                 FAILED          -         -     3    1h1m  The image regis…",
    "  web                RUNNING     12.5%  48.0 MiB     0    1h1m  Running",
    "",
    "",
    "",
    "",
    " ─ Events ─────────────────────────────────────────────────────────────────────",
    "    1m0s web Started: Started",
    "    1m0s db Started: pull access denied",
    "",
    "",
    "",
    "",
    "",
    " q quit  tab next  0 all  ↑↓ select  l log  e events  z large  s sort  ? help",
  ]);
});

test("120 × 40, the log of the selected workload", () => {
  const lines = ["\u001b[32mready\u001b[0m to serve", "日本語 and 🚀"];
  const model = after(aModel(), { kind: "open" }, log({ kind: "start" }), log({ kind: "lines", lines }));
  assert.deepEqual(screen(model, large), [
    " Capsule [1 nuc-1] 2 nuc-2!",
    " 192.0.2.1:50000  up  nuc 1.2.3 (machine)  up 1d2h  1 of 2 running",
    " CPU 30% of 2, load 0.50      MEM 25%, 2.0 GiB of 8.0 GiB  POOL default 40% of 100 GiB  NET ↓2.0 KiB/s ↑0 B/s",
    "                                                                                                              ██████",
    "                          ▆                                                                                   ██████",
    "                          █▅                                                                                  ██████",
    "                         ▃██                                                     ▃▃▃▃▃▃                       ██████",
    "                        ▂███▆                       ▄▄▄▄▄▄                       ██████                       ██████",
    "                       ▅█████                       ██████                       ██████                       ██████",
    " ─*WORKLOAD                      PHASE         CPU               MEMORY RSTRT     AGE  MESSAGE",
    "> db                             FAILED          -                    -     3    1h1m  The image registry.example/db:1 …",
    "  web                            RUNNING     12.5%  48.0 MiB of 256 MiB     0    1h1m  Running",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    " ─ Log of db ──────────────────────────────────────────────────────────────────────────────────────────────────────────",
    " ready to serve",
    " 日本語 and 🚀",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    "",
    " q quit  tab next  0 all  ↑↓ select  l log  e events  z large  s sort  ? help",
  ]);
});

test("all capsules", () => {
  assert.deepEqual(screen(after(aModel(), { kind: "all" }), small).slice(0, 5), [
    " Capsule  1 nuc-1  2 nuc-2!",
    "  CAPSULE            CPU               MEM  POOL RUNNING  STATE",
    "> 1 nuc-1                ▁▂▃▆▅▂  30%   25%   40%     1/2  up",
    "  2 nuc-2                          -     -     -     0/0  DOWN 1m5s: connect EC…",
    "",
  ]);
});

test("docs/dashboard.md shows these screens", () => {
  const docs = readFileSync(join(import.meta.dirname, "../../../../docs/dashboard.md"), "utf8");
  assert.ok(docs.includes(screen(aModel(), small).join("\n")));
  assert.ok(
    docs.includes(
      screen(after(aModel(), { kind: "all" }), small)
        .slice(0, 4)
        .join("\n"),
    ),
  );
});

test("the help is whole in the smallest screen, and every key line too", () => {
  for (const view of [{ kind: "help" }, { kind: "all" }, { kind: "large" }] as const) {
    const texts = screen(after(aModel(), view), small);
    assert.doesNotMatch(view.kind === "help" ? texts.join("\n") : (texts[23] ?? ""), /…/);
  }
});

test("a capsule that cannot be reached says why and when it is tried again", () => {
  assert.deepEqual(screen(after(aModel(), { kind: "capsule", by: 1 }), small).slice(0, 3), [
    " Capsule  1 nuc-1 [2 nuc-2!]",
    " 192.0.2.2:50000  UNREACHABLE for 1m5s, again in 4s: connect ECONNREFUSED",
    " CPU                                    MEM",
  ]);
});

test("a warning has a line of its own, and the capsule a mark", () => {
  const texts = screen(after(aModel(), info("/perm is nearly full: remove images", "other")), small);
  assert.match(texts[0] ?? "", /\[1 nuc-1!\]/);
  assert.equal(texts[2], " ! (1 of 2, see capsule info) /perm is nearly full: remove images");
});

test("a capsule that sends nothing is silent, though its connection stands", () => {
  const [, health] = layout(aModel(), small, now + 9_000).map(textOf);
  assert.match(health ?? "", /192\.0\.2\.1:50000 {2}SILENT for 9s/);
});

test("a terminal that is too small is told what is needed, whatever its size", () => {
  assert.deepEqual(screen(aModel(), { columns: 60, rows: 10 }).slice(0, 3), [
    "This terminal has 60 columns and 10 rows,",
    "the dashboard needs 80 and 24.",
    "Enlarge it, or leave by q.",
  ]);
  for (const size of [
    { columns: 1, rows: 1 },
    { columns: 79, rows: 24 },
    { columns: 80, rows: 23 },
  ])
    screen(aModel(), size);
});

test("every size has an exact screen, in every view", () => {
  const views: Model[] = [
    aModel(),
    after(aModel(), { kind: "all" }),
    after(aModel(), { kind: "help" }),
    after(aModel(), { kind: "large" }),
    after(aModel(), { kind: "capsule", by: 1 }),
    after(aModel(), { kind: "open" }),
  ];
  for (const model of views)
    for (const columns of [80, 81, 109, 110, 111, 237, 500])
      for (const rows of [24, 25, 35, 36, 61]) screen(model, { columns, rows });
});

test("more workloads than there is room for: the selected one is in sight", () => {
  let model = aModel();
  for (let i = 0; i < 300; i++) model = after(model, workload(`w-${String(i).padStart(3, "0")}`, Phase.RUNNING));
  for (const by of [0, 150, 1_000]) {
    const texts = screen(after(model, { kind: "select", by }), small);
    assert.equal(texts.filter((text) => text.startsWith("> ")).length, 1, `${by}`);
    assert.ok(texts.some((text) => /AGE {2}[0-9]+-[0-9]+ of 302$/.test(text)));
  }
});

test("nothing hostile reaches the terminal, whoever wrote it", () => {
  const evil = "\u001b[2J\u001b]0;x\u0007\u009b31m\r\n\u202e\u0000";
  const model = after(
    aModel(),
    workload(`a${evil}`, Phase.FAILED, `why ${evil}`),
    event(3, `a${evil}`, evil),
    info(evil),
    { kind: "select", by: -10 },
    { kind: "open" },
    { kind: "logs", capsule: 0, workload: `a${evil}`, of: { kind: "lines", lines: [evil, `text ${evil}`] } },
    feed({ kind: "down", reason: evil, retryAt: now }, 1),
  );
  for (const one of [model, after(model, { kind: "panel", panel: "events" }), after(model, { kind: "all" })]) {
    for (const line of layout(one, large, now)) {
      assert.doesNotMatch(textOf(line), /[\p{Cc}\p{Cf}]/u);
      for (const look of [
        { colours: true, unicode: true },
        { colours: false, unicode: false },
      ])
        assert.doesNotMatch(stripVTControlCharacters(rendered(line, look)), /[\p{Cc}\p{Cf}]/u);
    }
  }
});

test("colours only where they are wanted, and ASCII where nothing else is understood", () => {
  const lines = layout(aModel(), small, now);
  const plain = lines.map((line) => rendered(line, { colours: false, unicode: false })).join("\n");
  assert.doesNotMatch(plain, /\[[0-9;]*3[0-7]m/);
  assert.doesNotMatch(plain, /[^\p{ASCII}]/u);
  assert.match(lines.map((line) => rendered(line, { colours: true, unicode: true })).join("\n"), /\[32m/);
});
