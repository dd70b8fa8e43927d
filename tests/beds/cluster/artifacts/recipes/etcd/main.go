// Command etcd is the etcd server, built from its own package so that an ordinary module request brings it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
