module github.com/ncw/swift/v2

go 1.24.0
