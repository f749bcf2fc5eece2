import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { argumentsWithoutSecrets, mark, withoutLooksOfSecrets } from "./patterns.ts";

const secret = "hunter2-Zx9";
const jwt = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm5hIn0.c2lnbmF0dXJlLW9mLWl0";
const pem = (kind: string): string =>
  `-----BEGIN ${kind}-----\nMC4CAQAwBQYDK2VwBCIEIHunter2\nAAAA\n-----END ${kind}-----`;

describe("withoutLooksOfSecrets", () => {
  for (const text of [
    `PGPASSWORD=${secret} psql`,
    `password: ${secret}`,
    `{"password":"${secret}"}`,
    `{"db_password": "with \\"quotes\\" ${secret}"}`,
    `msg="env {\\"api_key\\":\\"${secret}\\"}"`,
    `--db-password ${secret} --port 1`,
    `--token=${secret}`,
    `["--password", "${secret}"]`,
    `["--password",\n      "${secret}"]`,
    `https://anna:${secret}@registry.example/v2/`,
    `https://${secret}@registry.example/v2/`,
    `Authorization: Bearer ${secret}`,
    `authorization: Basic YW5uYTpodW50ZXIy${secret}`,
    `client_secret='${secret}, and more'`,
    `AES_KEY=${secret}`,
    `DB_PASS="${secret}`,
    `secret=ab;cd,${secret}`,
  ])
    it(text, () => {
      const clean = withoutLooksOfSecrets(text);
      assert.ok(!clean.includes(secret), clean);
      assert.ok(clean.includes(mark), clean);
      assert.equal(withoutLooksOfSecrets(clean), clean, "a second time changes nothing");
    });

  it("takes tokens and keys by their form", () => {
    for (const text of [jwt, "ghp_0123456789abcdefghij0123456789abcdef", "AKIAABCDEFGHIJKLMNOP", pem("PRIVATE KEY")])
      assert.equal(withoutLooksOfSecrets(`before ${text} after`), `before ${mark} after`);
    assert.equal(withoutLooksOfSecrets(`a ${pem("OPENSSH PRIVATE KEY")} b`), `a ${mark} b`);
  });

  it("takes a key whose beginning or end was cut off", () => {
    assert.equal(withoutLooksOfSecrets(`hunter2\nAA\n-----END PRIVATE KEY-----\nafter`), `${mark}\nafter`);
    assert.equal(withoutLooksOfSecrets("before\n-----BEGIN EC PRIVATE KEY-----\nhunter2"), `before\n${mark}`);
    const long = `-----BEGIN PRIVATE KEY-----\n${"x".repeat(20_000)}the end`;
    assert.match(withoutLooksOfSecrets(long), /the end$/, "without an end it does not take all that follows");
  });

  it("leaves the rest as it is", () => {
    for (const text of [
      "2026-01-31T12:00:00Z level=warning msg=started",
      '{"hasPassword": true, "digest": "sha256:0123456789abcdef0123456789abcdef"}',
      '{"password":""}',
      "tcp dport 8080 counter packets 3 bytes 180 dnat to 10.65.176.2:8080",
      "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
      "http://mirror.example:5000/v2/",
    ])
      assert.equal(withoutLooksOfSecrets(text), text);
  });

  it("leaves JSON what it is", () => {
    const value = {
      token: "x y",
      nested: { apiKey: "a\\b", tokens: ["t"], secrets: [], tokenMap: {}, hasSecret: false },
      url: "https://a:b@c/",
    };
    const clean = JSON.parse(withoutLooksOfSecrets(JSON.stringify(value, undefined, 2))) as typeof value;
    assert.equal(clean.token, mark);
    assert.equal(clean.nested.apiKey, mark);
    assert.equal(clean.nested.hasSecret, false);
  });

  it("takes no time that grows faster than the text", () => {
    for (const line of ["a".repeat(1_000_000), "token".repeat(200_000), "--".repeat(500_000), '\\"'.repeat(400_000)]) {
      const began = performance.now();
      withoutLooksOfSecrets(line);
      assert.ok(performance.now() - began < 5_000, `${line.slice(0, 10)}: ${performance.now() - began} ms`);
    }
  });
});

describe("argumentsWithoutSecrets", () => {
  it("takes the value after an option that tells what it is", () => {
    assert.deepEqual(argumentsWithoutSecrets(["serve", "--password", secret, "--port", "80"]), [
      ...["serve", "--password", mark, "--port", "80"],
    ]);
    assert.deepEqual(argumentsWithoutSecrets([`--token=${secret}`, "-c", `X_SECRET=${secret} run`]), [
      ...[`--token=${mark}`, "-c", `X_SECRET=${mark} run`],
    ]);
  });
});
