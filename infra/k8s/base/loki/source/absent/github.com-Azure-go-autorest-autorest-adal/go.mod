module github.com/Azure/go-autorest/autorest/adal

go 1.24.0
