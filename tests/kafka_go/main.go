// Command kafka is a Kafka broker for tests, in memory, and its only consumer: it writes each message of the topic as a
// line of base64.
//
//	kafka PORT TOPIC
package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 3 {
		return fmt.Errorf("usage: kafka PORT TOPIC")
	}
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		return err
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.SeedTopics(2, os.Args[2]))
	if err != nil {
		return err
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(os.Args[2]))
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		fetched := client.PollFetches(context.Background())
		if err := fetched.Err(); err != nil {
			return err
		}
		for _, message := range fetched.Records() {
			fmt.Println(base64.StdEncoding.EncodeToString(message.Value))
		}
	}
}
