import assert from "node:assert/strict";
import { test } from "node:test";
import { aptSourcesFor } from "./apt-sources.ts";

test("a host's deb822 sources serve the target release, mirror and key kept", () => {
  const text =
    "Types: deb\n# a note\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n";
  assert.equal(
    aptSourcesFor([{ path: "debian.sources", text }], "bookworm", "trixie"),
    "Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /k.gpg\n",
  );
});

test("one-line sources are taken with their options", () => {
  const text =
    "deb [signed-by=/k.gpg] http://mirror.test/debian bookworm main contrib\ndeb-src http://mirror.test/debian bookworm main\n";
  assert.equal(
    aptSourcesFor([{ path: "sources.list", text }], "bookworm", "trixie"),
    "Types: deb\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n",
  );
});

test("other vendors, backports and disabled entries are left out", () => {
  const files = [
    { path: "node.sources", text: "Types: deb\nURIs: http://vendor.test\nSuites: nodistro\nComponents: main\n" },
    {
      path: "off.sources",
      text: "Enabled: no\nTypes: deb\nURIs: http://off.test\nSuites: bookworm\nComponents: main\n",
    },
    { path: "back.list", text: "deb http://mirror.test/debian bookworm-backports main\n" },
  ];
  assert.equal(aptSourcesFor(files, "bookworm", "trixie"), "");
});
