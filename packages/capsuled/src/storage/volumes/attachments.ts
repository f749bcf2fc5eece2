/** Which microVMs have which volumes as disks of their own. In memory only, as who holds them (holders.ts). */
export class Attachments {
  /** By volume: workloads, and whether each only reads. */
  readonly #ofVolume = new Map<string, Map<string, { readonly readOnly: boolean }>>();

  add(volume: string, workload: string, readOnly: boolean): void {
    const attached = this.#ofVolume.get(volume) ?? new Map<string, { readonly readOnly: boolean }>();
    this.#ofVolume.set(volume, attached.set(workload, { readOnly }));
  }

  remove(volume: string, workload: string): void {
    const attached = this.#ofVolume.get(volume);
    attached?.delete(workload);
    if (attached?.size === 0) this.#ofVolume.delete(volume);
  }

  removeAll(volume: string): void {
    this.#ofVolume.delete(volume);
  }

  has(volume: string): boolean {
    return this.#ofVolume.has(volume);
  }

  /** Whether the workload has the volume as a disk and cannot write to it. */
  onlyReads(volume: string, workload: string): boolean {
    return this.#ofVolume.get(volume)?.get(workload)?.readOnly === true;
  }

  /** The one that writes to the volume; others cannot have it then. */
  writerOf(volume: string): string | undefined {
    return [...(this.#ofVolume.get(volume) ?? [])].find(([, { readOnly }]) => !readOnly)?.[0];
  }
}
