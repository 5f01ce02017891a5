// Package sbom writes what an image consists of, as CycloneDX 1.6 JSON, and how it was
// made, as an in-toto statement with SLSA provenance. Both are functions of what they are
// given, without time or chance: the same image has the same documents. It must not look
// at the world; internal/image reads images, internal/app brings the two together.
//
// Start reading at cyclonedx.go and provenance.go.
package sbom
