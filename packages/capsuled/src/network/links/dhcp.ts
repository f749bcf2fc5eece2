/**
 * Who asks for addresses. Without a document with links that is the service `link` of a machine, which chooses the first wired
 * one; with one, the service `dhcp`, which has a client for each link in a list (image/files/usr/lib/capsule). Both are
 * capsule-init's, so leases outlive capsuled.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { syncDirectory, writeDurably } from "../../durable.ts";
import { CapsuleError } from "../../errors.ts";

/** capsule-init as it is needed here; its states are in native/README.md. */
export interface Services {
  /** Undefined for a service that it does not have. */
  stateOf(name: string): Promise<string | undefined>;
  request(verb: "start" | "stop" | "restart", name: string): Promise<void>;
}

const clientOfDefault = "link";
const clientsOfDocument = "dhcp";
/** Its services stop within a second (init.json). */
const stopMs = 5_000;
const pollMs = 20;

export interface DhcpPlaces {
  /** Default /run/capsule/machine. */
  readonly dir?: string;
  /** The link that the default has chosen. */
  readonly uplink?: string;
  /** Exists when a boot is not to ask for an address before capsuled has read the document. */
  readonly marker?: string;
}

export class DhcpClients {
  readonly #services: Services;
  readonly #places: Required<DhcpPlaces>;

  constructor(services: Services, places: DhcpPlaces = {}) {
    this.#services = services;
    this.#places = {
      dir: "/run/capsule/machine",
      uplink: "/run/capsule/uplink",
      marker: "/perm/capsule/links",
      ...places,
    };
  }

  /** The link that the default has chosen; undefined before, after `forgetDefaultLink`, and in a namespace. */
  async defaultLink(): Promise<string | undefined> {
    const name = (await readFile(this.#places.uplink, "utf8").catch(() => "")).trim();
    return name === "" ? undefined : name;
  }

  /** Nothing of the default's lease is left on it. */
  async forgetDefaultLink(): Promise<void> {
    await rm(this.#places.uplink, { force: true });
  }

  /** Ends clients of links that shall have none; with `hasDocument` the default's too. */
  async stopAllBut(links: readonly string[], hasDocument: boolean): Promise<void> {
    if (hasDocument) {
      await rm(this.#defaultPath, { force: true });
      await this.#stop(clientOfDefault);
    }
    const served = await this.#served();
    if (served.length > 0 && served.join() !== links.join()) await this.#stop(clientsOfDocument);
  }

  /** A client for each of these. */
  async start(links: readonly string[]): Promise<void> {
    if (links.length === 0) {
      if ((await this.#served()).length > 0) await this.#stop(clientsOfDocument);
      await rm(this.#listPath, { force: true });
      return;
    }
    if ((await this.#served()).join() !== links.join()) {
      await mkdir(this.#places.dir, { recursive: true, mode: 0o755 });
      await writeFile(`${this.#listPath}.new`, links.map((link) => `${link}\n`).join(""));
      await rename(`${this.#listPath}.new`, this.#listPath);
    }
    if ((await this.#services.stateOf(clientsOfDocument)) === "stopped")
      await this.#services.request("start", clientsOfDocument);
  }

  /** As it is without a document. */
  async useDefault(): Promise<void> {
    await this.start([]);
    const state = await this.#services.stateOf(clientOfDefault);
    if (state === undefined) return;
    await mkdir(this.#places.dir, { recursive: true, mode: 0o755 });
    // The service waits for ever where a boot has found the marker.
    const waits = existsSync(this.#places.marker) && !existsSync(this.#defaultPath);
    await writeFile(this.#defaultPath, "");
    if (state === "stopped") await this.#services.request("start", clientOfDefault);
    else if (waits) await this.#services.request("restart", clientOfDefault);
  }

  /** What the next boot does before capsuled has read the document. Durable. */
  async remember(hasLinks: boolean): Promise<void> {
    if ((await this.#services.stateOf(clientOfDefault)) === undefined) return;
    const { marker } = this.#places;
    if (hasLinks === existsSync(marker)) return;
    if (hasLinks) return await writeDurably(marker, "", 0o644);
    await rm(marker, { force: true });
    await syncDirectory(dirname(marker));
  }

  get #listPath(): string {
    return join(this.#places.dir, "dhcp");
  }

  /** Exists while the default is what is wanted. */
  get #defaultPath(): string {
    return join(this.#places.dir, "default-links");
  }

  async #served(): Promise<string[]> {
    const text = await readFile(this.#listPath, "utf8").catch(() => "");
    return text.split("\n").filter((name) => name !== "");
  }

  async #stop(service: string): Promise<void> {
    const state = await this.#services.stateOf(service);
    if (state === undefined || state === "stopped") return;
    await this.#services.request("stop", service);
    for (const deadline = Date.now() + stopMs; (await this.#services.stateOf(service)) !== "stopped"; ) {
      if (Date.now() > deadline)
        throw new CapsuleError("unavailable", `capsule-init did not stop the service ${service} within ${stopMs} ms`);
      await sleep(pollMs);
    }
  }
}
