/** What can be wrong with the settings of a registry. Pure. */
import type { FieldViolation } from "../errors.ts";

const HOST = /^[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?$|^\[[0-9a-fA-F:]+\](:[0-9]{1,5})?$/;

/** `at` is the path of the registry. */
export function registryFaults(
  registry: {
    readonly host: string;
    readonly mirrors: readonly string[];
    readonly caCertificate: string;
    readonly username: string;
  },
  at: string,
): FieldViolation[] {
  const { host, mirrors, caCertificate, username } = registry;
  const faults: FieldViolation[] = [];
  if (!HOST.test(host))
    faults.push({ path: `${at}.host`, description: "a host is needed, such as registry.example:5000" });
  for (const [i, mirror] of mirrors.entries()) {
    const path = `${at}.mirrors[${i}]`;
    const url = URL.parse(mirror);
    if (url === null || !["http:", "https:"].includes(url.protocol) || url.username !== "" || url.search !== "") {
      faults.push({ path, description: `"${mirror.slice(0, 80)}" is no URL such as https://mirror.example` });
    }
  }
  if (mirrors.length > 8) faults.push({ path: `${at}.mirrors`, description: "at most 8 are taken" });
  if (username.includes(":")) faults.push({ path: `${at}.username`, description: "it cannot contain a colon" });
  if (caCertificate !== "" && !caCertificate.includes("-----BEGIN CERTIFICATE-----")) {
    faults.push({ path: `${at}.caCertificate`, description: "a certificate in PEM is needed" });
  }
  return faults;
}
