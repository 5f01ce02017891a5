module zombiezen.com/go/sqlite

go 1.24.0
