// Command hello is the image that a person builds and pushes to the mirror.
package main

import (
	"fmt"
	"os"
)

func main() { fmt.Println("hello from", os.Getenv("WHERE")) }
