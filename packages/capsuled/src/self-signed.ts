import "reflect-metadata";
import { randomBytes, webcrypto } from "node:crypto";

/**
 * A key and a certificate that signs itself, for a server whose clients know it by other means than an authority. P-256:
 * every TLS 1.3 client has it (RFC 8446, 9.1).
 */
export async function makeCertificate(
  commonName: string,
  names: readonly { readonly type: "dns" | "ip"; readonly value: string }[],
): Promise<{ readonly keyPem: string; readonly certificatePem: string }> {
  const x509 = await import("@peculiar/x509");
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: randomBytes(16)
      .toString("hex")
      .replace(/^[89a-f]/, "1"),
    name: `CN=${commonName}`,
    // A clock that is wrong at the first boot must not make it invalid.
    notBefore: new Date("2020-01-01T00:00:00Z"),
    notAfter: new Date("2120-01-01T00:00:00Z"),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(false),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension([...names]),
    ],
  });
  const key = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const keyPem = `-----BEGIN PRIVATE KEY-----\n${key.replace(/(.{64})(?=.)/g, "$1\n")}\n-----END PRIVATE KEY-----\n`;
  return { keyPem, certificatePem: `${certificate.toString("pem")}\n` };
}
