module cloud.google.com/go/bigtable

go 1.24.0
