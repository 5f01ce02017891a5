module github.com/Azure/go-autorest/autorest/azure/auth

go 1.24.0
