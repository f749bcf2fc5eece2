import assert from "node:assert/strict";
import { test } from "node:test";
import { type ArchiveParts, splitArchive, type TakenBlob } from "./split-archive.ts";

const large = 70_000;
const blob = (letter: string): string => `blobs/sha256/${letter.repeat(64)}`;
const bytes = (length: number): Buffer => Buffer.from(Array.from({ length }, (_, i) => i));

/** One entry, by the definition of POSIX tar. */
function entry(name: string, data: Buffer | string = "", type = "0", size = Buffer.from(data).length): Buffer {
  const header = Buffer.alloc(512);
  header.write(name, 0, "latin1");
  header.write("0000644\0", 100);
  header.write(`${size.toString(8).padStart(11, "0")}\0`, 124);
  header.write(" ".repeat(8), 148);
  header.write(type, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  const content = Buffer.from(data);
  return Buffer.concat([header, content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
}
const end = Buffer.alloc(1024);
const layout = entry("oci-layout", "{}");

interface Split {
  readonly passed: Buffer;
  readonly taken: Map<string, Buffer>;
  readonly givenBack: readonly TakenBlob[];
}

async function split(archive: Buffer, { size = archive.length, wanted = true } = {}): Promise<Split> {
  const passed: Buffer[] = [];
  const taken = new Map<string, Buffer>();
  let givenBack: readonly TakenBlob[] = [];
  const parts: ArchiveParts = {
    pass: async (data) => void passed.push(Buffer.from(data)),
    take: async ({ digest }, next) => {
      const pieces: Buffer[] = [];
      for (let piece = wanted ? await next(1_000) : undefined; piece !== undefined; piece = await next(1_000))
        pieces.push(Buffer.from(piece));
      taken.set(digest.slice(0, 8), Buffer.concat(pieces));
    },
    giveBack: async (blobs) => {
      givenBack = blobs;
      passed.push(Buffer.from("BACK"));
    },
  };
  const chunks = (async function* () {
    for (let at = 0; at < archive.length; at += size) yield archive.subarray(at, at + size);
  })();
  await splitArchive(chunks, parts);
  return { passed: Buffer.concat(passed), taken, givenBack };
}

test("large blobs are taken out, all else is passed on byte for byte, however it is cut", async () => {
  const small = Buffer.concat([entry(blob("b"), "small"), layout, entry("blobs/", "", "5"), entry("index.json", "{}")]);
  const archive = Buffer.concat([entry(blob("a"), bytes(large)), small, entry(`./${blob("c")}`, bytes(65_536)), end]);
  for (const size of [1, 7, 511, 512, 16_384, archive.length]) {
    const { passed, taken, givenBack } = await split(archive, { size });
    assert.deepEqual(passed, Buffer.concat([small, end]), `chunks of ${size}`);
    assert.deepEqual(taken.get("sha256:a"), bytes(large));
    assert.deepEqual(taken.get("sha256:c"), bytes(65_536));
    assert.equal(givenBack.length, 0);
  }
  const unread = await split(archive, { wanted: false });
  assert.deepEqual(unread.passed, Buffer.concat([small, end]), "one that is there already is skipped");
});

test("what is not exactly a blob of a layout is passed on", async () => {
  for (const name of [
    `${blob("a")}.tar.gz`,
    `x/${blob("a")}`,
    blob("A"),
    "layer.tar",
    `blobs/sha256/../sha256/${"a".repeat(64)}`,
  ]) {
    const archive = Buffer.concat([layout, entry(name, bytes(large)), end]);
    assert.deepEqual(await split(archive), { passed: archive, taken: new Map(), givenBack: [] }, name);
  }
});

test("blobs of what is no layout are given back before its end", async () => {
  const manifest = entry("manifest.json", "[]");
  const { passed, givenBack } = await split(Buffer.concat([entry(blob("a"), bytes(large)), manifest, end]));
  assert.deepEqual(passed, Buffer.concat([manifest, Buffer.from("BACK"), end]));
  assert.deepEqual(
    givenBack.map(({ sizeBytes }) => sizeBytes),
    [large],
  );
  assert.deepEqual(Buffer.from(givenBack[0]?.header ?? []), entry(blob("a"), "", "0", large).subarray(0, 512));
});

test("an entry with extensions is passed on with them", async () => {
  for (const [type, data] of [
    ["x", "30 mtime=1700000000.123456789\n"],
    ["L", blob("b")],
    ["K", "target"],
  ] as const) {
    const extended = Buffer.concat([layout, entry("pax", data, type), entry(blob("a"), bytes(large))]);
    const { passed, taken } = await split(Buffer.concat([extended, entry(blob("c"), bytes(large)), end]));
    assert.deepEqual(passed, Buffer.concat([extended, end]));
    assert.deepEqual([...taken.keys()], ["sha256:c"]);
  }
});

test("from the first thing on that is not plain, all is passed on", async () => {
  const broken = entry(blob("b"), bytes(large));
  broken[3] = 1; // another checksum
  const odd = [
    broken,
    entry("pax", "12 size=99\n", "x"),
    entry("pax", "22 GNU.sparse.major=1\n", "x"),
    entry("pax", "x".repeat(70_000), "x"),
    entry("global", "", "g"),
    entry("sparse", "", "S"),
    entry("link", "x", "2"),
    Buffer.from("this is no archive ".repeat(100)),
    Buffer.alloc(512),
  ];
  for (const [i, one] of odd.entries()) {
    const rest = Buffer.concat([one, entry(blob("a"), bytes(large)), end]);
    const { passed, taken } = await split(Buffer.concat([layout, rest]));
    assert.deepEqual(passed, Buffer.concat([layout, rest]), `case ${i}`);
    assert.equal(taken.size, 0);
  }
});

test("cut short: within a blob it is refused, elsewhere the cut is passed on", async () => {
  const archive = Buffer.concat([layout, entry(blob("a"), bytes(large))]);
  for (const length of [1_024 + 512, 1_024 + 512 + 1, 1_024 + 512 + large - 1])
    await assert.rejects(split(archive.subarray(0, length)), /it ends within sha256:a/);
  for (const length of [0, 100, 512, 1_024, 1_300]) {
    const cut = archive.subarray(0, length);
    assert.deepEqual((await split(cut)).passed, cut, `${length} bytes`);
  }
  const extension = Buffer.concat([layout, entry("pax", "x".repeat(600), "x")]).subarray(0, 1_700);
  assert.equal((await split(extension)).passed.length, 1_700);
});
