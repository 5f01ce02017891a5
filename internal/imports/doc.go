// Package imports holds packages to what they may import. Only tests import it.
package imports
