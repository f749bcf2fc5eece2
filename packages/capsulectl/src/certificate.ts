/** Makes the client's key and certificate. Loaded only then: it brings a large library. */
import "reflect-metadata";
import { randomBytes, webcrypto } from "node:crypto";
import { hostname, userInfo } from "node:os";
import { ExtendedKeyUsage, ExtendedKeyUsageExtension, X509CertificateGenerator } from "@peculiar/x509";

/** An Ed25519 key and a certificate of it. Capsules know the key; the certificate only carries it. */
export async function makeClientCertificate(): Promise<{ keyPem: string; certificatePem: string }> {
  const algorithm = { name: "Ed25519" };
  const keys = (await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair;
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: `01${randomBytes(15).toString("hex")}`,
    name: `CN=${`${userInfo().username}@${hostname()}`.replace(/[^A-Za-z0-9@._-]/g, "-")}`,
    notBefore: new Date("2020-01-01T00:00:00Z"),
    notAfter: new Date("2120-01-01T00:00:00Z"),
    signingAlgorithm: algorithm,
    keys,
    extensions: [new ExtendedKeyUsageExtension([ExtendedKeyUsage.clientAuth])],
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  return {
    keyPem: `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n`,
    certificatePem: `${certificate.toString("pem")}\n`,
  };
}
