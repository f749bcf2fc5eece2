/** One apt source file of the host. */
export type SourceFile = { readonly path: string; readonly text: string };

type Entry = { uris: string[]; suites: string[]; options: Map<string, string> };

/** Names under which a host may follow the same release without saying its codename. */
const aliases = new Set(["stable", "oldstable", "testing", "unstable", "sid"]);

/**
 * Derives the sources of release `target` from those of a host on release `codename`, as deb822 text; "" when the host
 * has none. Entries of other vendors (suites that do not name the host's release) are left out. Pure: tests feed it text.
 */
export function aptSourcesFor(files: readonly SourceFile[], codename: string, target: string): string {
  const stanzas = new Set<string>();
  for (const file of files) {
    for (const entry of file.path.endsWith(".sources") ? parseDeb822(file.text) : parseOneLine(file.text)) {
      const suites = entry.suites.flatMap((name) => translate(name, codename, target));
      if (suites.length === 0) continue;
      const lines = ["Types: deb", `URIs: ${entry.uris.join(" ")}`, `Suites: ${suites.join(" ")}`, "Components: main"];
      for (const key of ["Signed-By", "Trusted"]) {
        const value = entry.options.get(key.toLowerCase());
        if (value !== undefined) lines.push(`${key}: ${value}`);
      }
      stanzas.add(lines.join("\n"));
    }
  }
  return stanzas.size === 0 ? "" : `${[...stanzas].join("\n\n")}\n`;
}

/** bookworm → trixie, bookworm-security → trixie-security; proposed updates and backports do not belong in an image. */
function translate(name: string, codename: string, target: string): string[] {
  const [, base = "", pocket = ""] = /^([a-z]+)(-updates|-security)?$/.exec(name) ?? [];
  return base !== "" && (base === codename || aliases.has(base)) ? [target + pocket] : [];
}

function parseDeb822(text: string): Entry[] {
  const entries: Entry[] = [];
  const withoutComments = text.replace(/^#.*\n?/gm, "");
  for (const stanza of withoutComments.split(/\n\s*\n/)) {
    const fields = new Map<string, string>();
    for (const [, key = "", value = ""] of stanza.matchAll(/^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)/gm)) {
      fields.set(key.toLowerCase(), value.trim());
    }
    if (fields.get("enabled")?.toLowerCase() === "no") continue;
    if (!words(fields.get("types")).includes("deb") || !words(fields.get("components")).includes("main")) continue;
    entries.push({ uris: words(fields.get("uris")), suites: words(fields.get("suites")), options: fields });
  }
  return entries;
}

function parseOneLine(text: string): Entry[] {
  const entries: Entry[] = [];
  for (const line of text.split("\n")) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$/.exec(line.replace(/#.*/, ""));
    if (match === null) continue;
    const [, options = "", uri = "", suite = "", components = ""] = match;
    if (!words(components).includes("main")) continue;
    const parsed = new Map(
      words(options).map((option): [string, string] => {
        const at = option.indexOf("=");
        return [option.slice(0, at).toLowerCase(), option.slice(at + 1)];
      }),
    );
    entries.push({ uris: [uri], suites: [suite], options: parsed });
  }
  return entries;
}

function words(value: string | undefined): string[] {
  return (value ?? "").split(/[\s]+/).filter((word) => word !== "");
}
