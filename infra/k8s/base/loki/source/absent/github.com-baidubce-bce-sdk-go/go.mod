module github.com/baidubce/bce-sdk-go

go 1.24.0
