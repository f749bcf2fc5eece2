/** What Firecracker is told of its machine, in the words of its API. */
import type { MachineConfig } from "./backend.ts";

const MiB = 1024 ** 2;
/** Directory of its sockets and its configuration, as the jailed program sees it. */
export const inside = "/run";
/** The network interface's name in its API. */
export const interfaceId = "eth0";
/** The first address that is a guest's (vsock(7)). Nothing but this monitor sees it, so all machines have the same one. */
const guestCid = 3;
/** As its documents ask for: a guest that restarts by the keyboard's controller (`k`) or panics ends its monitor. */
const kernelArguments: readonly string[] = ["console=ttyS0", "quiet", "reboot=k", "panic=1", "pci=off"];

/** As the jailed program sees it. */
export function diskPath(index: number): string {
  return `/dev/disk${index}`;
}

/** Its configuration file: "FullVmConfiguration" of its API. */
export function configurationOf(config: MachineConfig): Record<string, unknown> {
  const { vcpus, memoryBytes, kernel, initramfs, kernelArgs, disks, network } = config;
  return {
    "boot-source": {
      kernel_image_path: kernel,
      ...(initramfs === undefined ? {} : { initrd_path: initramfs }),
      boot_args: [...kernelArguments, ...kernelArgs].join(" "),
    },
    "machine-config": { vcpu_count: vcpus, mem_size_mib: Math.ceil(memoryBytes / MiB) },
    drives: disks.map(({ readOnly }, i) => ({
      drive_id: `disk${i}`,
      path_on_host: diskPath(i),
      // It would come first and add a root= of its own.
      is_root_device: false,
      is_read_only: readOnly,
      // By default it tells the guest that nothing has to be flushed, and a power cut takes what the guest believes written.
      cache_type: "Writeback",
    })),
    "network-interfaces":
      network === undefined ? [] : [{ iface_id: interfaceId, host_dev_name: network.tap, guest_mac: network.mac }],
    vsock: { guest_cid: guestCid, uds_path: `${inside}/agent` },
    entropy: {},
    // Never inflated: memory that the guest has freed goes back to the capsule by itself.
    balloon: { amount_mib: 0, deflate_on_oom: false, free_page_reporting: true },
  };
}
