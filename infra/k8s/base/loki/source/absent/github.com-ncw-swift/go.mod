module github.com/ncw/swift

go 1.24.0
