/**
 * The schema of /perm/state.db as a list of numbered steps. A step that has landed is never edited: a capsule may have
 * run it. `PRAGMA user_version` holds the number of the last one that ran.
 *
 * Specs and statuses are stored as protobuf binary: it keeps the fields that this version does not know, so that a
 * rollback to an older version loses nothing.
 */
export const migrations: readonly string[] = [
  `
  CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE workloads (
    name TEXT PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    spec BLOB NOT NULL,
    generation INTEGER NOT NULL,
    desired TEXT NOT NULL CHECK (desired IN ('running', 'stopped')),
    restarts_wanted INTEGER NOT NULL DEFAULT 0,
    deleting INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    status BLOB NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- One row an address, both kinds and both families: the primary key makes a collision impossible.
  CREATE TABLE addresses (
    address TEXT PRIMARY KEY,
    uid TEXT NOT NULL REFERENCES workloads (uid),
    family INTEGER NOT NULL CHECK (family IN (4, 6)),
    UNIQUE (uid, family)
  ) STRICT, WITHOUT ROWID;

  -- Ports of the capsule that workloads claim. host_address '' is every address.
  CREATE TABLE host_ports (
    protocol TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    host_address TEXT NOT NULL,
    uid TEXT NOT NULL REFERENCES workloads (uid),
    PRIMARY KEY (protocol, port, host_address)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX host_ports_uid ON host_ports (uid);

  CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role INTEGER NOT NULL,
    public_key BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    object_kind TEXT NOT NULL,
    object_name TEXT NOT NULL,
    type INTEGER NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    count INTEGER NOT NULL,
    time INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX events_object ON events (object_kind, object_name, sequence);

  CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    method TEXT NOT NULL,
    objects TEXT NOT NULL,
    result TEXT NOT NULL,
    peer_address TEXT NOT NULL
  ) STRICT;

  CREATE TABLE registries (
    host TEXT PRIMARY KEY,
    mirrors TEXT NOT NULL,
    username TEXT NOT NULL,
    password TEXT NOT NULL,
    plain_http INTEGER NOT NULL,
    ca_certificate TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
  `,
  `
  -- How many of the restarts that were asked for have been carried out.
  ALTER TABLE workloads ADD COLUMN restarts_done INTEGER NOT NULL DEFAULT 0;
  `,
  `
  -- disk_uid names the disk that holds the data: another one after a restore. provisioned: that disk has been whole once,
  -- and its absence is a loss.
  CREATE TABLE volumes (
    name TEXT PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,
    spec BLOB NOT NULL,
    pool TEXT NOT NULL,
    disk_uid TEXT NOT NULL UNIQUE,
    provisioned INTEGER NOT NULL,
    deleting INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    status BLOB NOT NULL
  ) STRICT, WITHOUT ROWID;

  -- Volumes that workloads mount, by name: a claim outlives a volume that was deleted by force.
  CREATE TABLE volume_claims (
    volume TEXT NOT NULL,
    uid TEXT NOT NULL REFERENCES workloads (uid),
    read_only INTEGER NOT NULL,
    PRIMARY KEY (volume, uid)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX volume_claims_uid ON volume_claims (uid);
  `,
  `
  CREATE TABLE snapshots (
    uid TEXT PRIMARY KEY,
    volume_uid TEXT NOT NULL REFERENCES volumes (uid),
    name TEXT NOT NULL,
    disk_uid TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    origin TEXT NOT NULL CHECK (origin IN ('manual', 'schedule', 'restore')),
    deleting INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    UNIQUE (volume_uid, name)
  ) STRICT, WITHOUT ROWID;
  `,
  `
  -- Root filesystems of images as disks, one for each image and platform, and the disks of microVMs that were made of them.
  CREATE TABLE image_bases (
    digest TEXT NOT NULL,
    platform TEXT NOT NULL,
    disk_uid TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    deleting INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (digest, platform)
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE root_disks (
    owner TEXT PRIMARY KEY,
    disk_uid TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    deleting INTEGER NOT NULL DEFAULT 0
  ) STRICT, WITHOUT ROWID;
  `,
  `
  -- Of a workload that is wanted running.
  ALTER TABLE workloads ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
  `,
  `
  -- The document of the machine. While its links are not confirmed, the one before, with the registries that either of the
  -- two has: what is put back, also by a start.
  CREATE TABLE machine (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    generation INTEGER NOT NULL,
    spec BLOB NOT NULL,
    previous_spec BLOB,
    previous_registries TEXT
  ) STRICT;
  `,
];
