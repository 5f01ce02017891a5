// Package english keeps daemons from loading kubectl's translations, which packages of
// kubectl's do when they are initialised, whoever links them: 20 ms and 4 MiB for each of
// the 22 processes of a cluster of five. kubectl itself speaks the user's language.
//
// It must not import what calls i18n.T, whose initialisation it has to precede.
package english

import (
	"os"
	"path/filepath"

	"k8s.io/kubectl/pkg/util/i18n"
)

func init() {
	if translated(os.Args) {
		return
	}
	// The only error is that translations were loaded already, which costs time and no more.
	_ = i18n.SetLoadTranslationsFunc(func() error { return nil })
}

// translated says whether the program that argv asks for has translations.
func translated(argv []string) bool {
	const kubectl = "kubectl"
	return len(argv) > 0 && filepath.Base(argv[0]) == kubectl || len(argv) > 1 && argv[1] == kubectl
}
