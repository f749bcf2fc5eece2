/**
 * The machine's document on a machine: a static link in place of the lease, through restarts; one that cuts it off; VLANs, a bond
 * and leases on links of the test; clock and console.
 */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { QemuHost } from "../support/qemu/qemu-host.ts";
import { TestCapsule } from "../support/test-capsule.ts";

const minuteMs = 60_000;
let capsule: TestCapsule;
let host: QemuHost;
before(async () => {
  capsule = await TestCapsule.startMachine("machine", []);
  assert.ok(capsule.host instanceof QemuHost);
  host = capsule.host;
});
after(async () => await capsule?.stop());

/** QEMU's user network has this subnet and router, and forwards ports to this address. */
const own = `kind: Machine
name: nuc-1
links:
  - {name: eth0, addresses: [10.0.2.15/24], gateway: 10.0.2.2}
`;

async function inside(command: string): Promise<string> {
  return (await host.exec(["sh", "-c", command])).trim();
}

async function applied(manifest: string, ...options: string[]): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, ...options);
  assert.equal(code, 0, `${stderr}\n${await capsule.log()}`);
}

async function until(what: string, holds: () => Promise<boolean>, timeoutMs = 2 * minuteMs): Promise<void> {
  for (const deadline = Date.now() + timeoutMs; !(await holds()); await sleep(1_000))
    if (Date.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}\n${await capsule.log()}`);
}

const clients = async (): Promise<string> => await inside("pidof udhcpc || echo none");
const wayOut = async (): Promise<string> => await inside("ip -4 route show default");

test("the documents of docs/machine.md are taken by a machine", { timeout: 5 * minuteMs }, async () => {
  const text = readFileSync(join(repositoryRoot, "docs/machine.md"), "utf8");
  for (const [, block = ""] of text.matchAll(/^```yaml\n(.*?)^```$/gms)) {
    const { code, stderr } = await capsule.try(["diff", "-f", "-"], block);
    assert.equal(code, 0, `${stderr}\n${block}`);
  }
});

test("a static link in place of the lease, with its names, clock and console", { timeout: 5 * minuteMs }, async () => {
  assert.match(await wayOut(), /proto dhcp/);
  await applied(`${own}dns: {servers: [10.0.2.3]}
ntp: {servers: [10.0.2.2]}
console: {notice: "Rack 4, shelf 2", showLogs: false}
updates: {autoConfirm: 2m}
`);
  assert.equal(await wayOut(), "default via 10.0.2.2 dev eth0 proto static");
  assert.equal(await inside("ip -4 -o address show dev eth0 | awk '{print $4}'"), "10.0.2.15/24");
  assert.equal(await clients(), "none");
  assert.equal(await inside("cat /etc/resolv.conf; hostname"), "nameserver 10.0.2.3\nnuc-1");
  await until("chrony's server", async () =>
    (await inside("tr '\\0' ' ' </proc/$(pidof chronyd)/cmdline")).includes("machine/chrony.conf"),
  );
  assert.match(await inside("cat /run/capsule/machine/chrony.conf"), /^server 10\.0\.2\.2 iburst$/m);
  const banner = (console: string): string => console.slice(console.lastIndexOf("Capsule:"));
  await until("the notice on the console", async () => banner(host.machine.console()).includes("Rack 4, shelf 2"));
  assert.doesNotMatch(banner(host.machine.console()), /Any key/);
});

test("a bond, VLANs on it and a lease, with a neighbour in the machine", { timeout: 8 * minuteMs }, async () => {
  const pid = await inside(`for i in 0 1; do ip link add port$i type veth peer name peer$i; done
    unshare --net sleep 1d >/dev/null 2>&1 </dev/null & pid=$!
    while [ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
    for i in 0 1; do ip link set peer$i netns $pid; done
    nsenter --net=/proc/$pid/ns/net sh -ec '
      ip link add lan type bridge forward_delay 0
      for i in 0 1; do ip link set peer$i master lan up; done
      ip link add link lan name v20 type vlan id 20
      ip link add link lan name v30 type vlan id 30
      ip address add 198.51.100.2/24 dev lan
      ip address add 10.20.0.2/24 dev v20
      ip address add 10.30.0.2/24 dev v30
      ip address add 2001:db8:30::2/64 dev v30 nodad
      ip link set lan up; ip link set v20 up; ip link set v30 up'
    nsenter --net=/proc/$pid/ns/net dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --interface=v30 \\
      --dhcp-range=10.30.0.100,10.30.0.150,10m --enable-ra --dhcp-range=2001:db8:30::,ra-only --leasefile-ro --pid-file >/dev/null 2>&1 </dev/null &
    echo $pid`);
  const neighbour = (command: string): Promise<string> => inside(`nsenter --net=/proc/${pid}/ns/net ${command}`);
  await applied(`${own}  - {name: port0, mtu: 1400}
  - {name: port1}
  - {name: bond0, bond: {links: [port0, port1], primary: port0}, addresses: [198.51.100.1/24]}
  - {name: storage, vlan: {link: bond0, id: 20}, addresses: [10.20.0.1/24]}
  - {name: guests, vlan: {link: bond0, id: 30}, dhcp: true}
`);
  await neighbour("ping -c 3 -W 5 198.51.100.1");
  await neighbour("ping -c 3 -W 5 10.20.0.1");
  await until("a lease", async () => (await inside("ip -4 -o address show dev guests")).includes("10.30.0.1"));
  await until("an address by a router advertisement", async () =>
    (await inside("ip -6 -o address show dev guests")).includes(" 2001:db8:30:0"),
  );
  // The way out that the document gives goes before that of the lease.
  assert.match(
    await wayOut(),
    /^default via 10\.0\.2\.2 dev eth0 proto static *\ndefault via 10\.30\.0\.2 dev guests proto dhcp metric 1000/,
  );
  assert.match(await inside("cat /proc/net/bonding/bond0"), /Currently Active Slave: port0/);
  await neighbour("ip link set peer0 down");
  await until("the other link", async () =>
    (await inside("cat /proc/net/bonding/bond0")).includes("Currently Active Slave: port1"),
  );
  await neighbour("ping -c 3 -W 5 198.51.100.1");
  const shown = JSON.parse(await capsule.ctl(["machine", "get", "-o", "json"])) as { faults: string[] };
  assert.deepEqual(shown.faults, []);
  await applied(own);
  assert.equal(await clients(), "none");
  assert.equal(await inside("ls /sys/class/net | grep -c 'bond0\\|storage\\|guests' || true"), "0");
  assert.equal(await wayOut(), "default via 10.0.2.2 dev eth0 proto static");
});

test("links that cut it off are taken back, and the API answers again", { timeout: 6 * minuteMs }, async () => {
  const wrong = own.replace("10.0.2.15", "10.0.2.77");
  const { code, stderr } = await capsule.apply(wrong, "--confirm-within=20s");
  assert.equal(code, 1, stderr);
  assert.match(stderr, /taken back: it was not confirmed within 20 s/);
  assert.equal(await inside("ip -4 -o address show dev eth0 | awk '{print $4}'"), "10.0.2.15/24");
});

test("a restart keeps what was confirmed, and asks for no lease; a power cut takes back what was not", {
  timeout: 15 * minuteMs,
}, async () => {
  const before = await host.bootId();
  await capsule.ctl(["capsule", "reboot", "--yes"]);
  await host.untilRebooted(before);
  await capsule.untilServing(4 * minuteMs);
  await until("the document's links", async () => (await wayOut()) === "default via 10.0.2.2 dev eth0 proto static");
  assert.equal(await clients(), "none");
  assert.match(await inside("tail -n 5 /perm/log/link.log"), /links are as the machine's document has them\s*$/);
  assert.match(await capsule.ctl(["capsule", "info"]), /nuc-1/);

  // To the default, which is DHCP; not confirmed when the power goes.
  await applied("kind: Machine\nname: nuc-1\n", "--no-confirm", "--confirm-within=10m");
  await until("a lease", async () => /proto dhcp/.test(await wayOut()));
  await host.cutPower();
  await host.startAgain();
  await capsule.untilServing(4 * minuteMs);
  await until("the document's links", async () => (await wayOut()) === "default via 10.0.2.2 dev eth0 proto static");
  assert.match(
    await capsule.ctl(["machine", "get"]),
    /taken back: the capsule was started again before it was confirmed/,
  );
});

test("without a document it has a lease again, also after a restart", { timeout: 10 * minuteMs }, async () => {
  const file = join(capsule.dir, "machine.yaml");
  writeFileSync(file, own);
  await capsule.ctl(["delete", "-f", file]);
  await until("a lease", async () => /proto dhcp/.test(await wayOut()));
  const before = await host.bootId();
  await capsule.ctl(["capsule", "reboot", "--yes"]);
  await host.untilRebooted(before);
  await capsule.untilServing(4 * minuteMs);
  await until("a lease", async () => /proto dhcp/.test(await wayOut()));
});
