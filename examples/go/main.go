// Command go is a whole session through the official Go SDK. It needs a running server
// (croft up) and ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY set to it; its argument is the
// model: an id of the server's configuration, or replay:PATH.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/packages/param"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: go run ./examples/go MODEL")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, model string) error {
	client := anthropic.NewClient() // reads ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY
	agent, err := client.Beta.Agents.New(ctx, anthropic.BetaAgentNewParams{
		Name:  "go example",
		Model: anthropic.BetaManagedAgentsModelConfigParams{ID: model},
		Tools: []anthropic.BetaAgentNewParamsToolUnion{{OfAgentToolset20260401: &anthropic.BetaManagedAgentsAgentToolset20260401Params{
			Type: anthropic.BetaManagedAgentsAgentToolset20260401ParamsTypeAgentToolset20260401}}},
	})
	if err != nil {
		return fmt.Errorf("creating an agent: %w", err)
	}
	environment, err := client.Beta.Environments.New(ctx, anthropic.BetaEnvironmentNewParams{Name: "go example"})
	if err != nil {
		return fmt.Errorf("creating an environment: %w", err)
	}
	session, err := client.Beta.Sessions.New(ctx, anthropic.BetaSessionNewParams{
		Agent: anthropic.BetaSessionNewParamsAgentUnion{OfString: param.NewOpt(agent.ID)}, EnvironmentID: environment.ID})
	if err != nil {
		return fmt.Errorf("creating a session: %w", err)
	}
	stream := client.Beta.Sessions.Events.StreamEvents(ctx, session.ID, anthropic.BetaSessionEventStreamParams{})
	defer stream.Close() //nolint:errcheck // nothing was written
	_, err = client.Beta.Sessions.Events.Send(ctx, session.ID, anthropic.BetaSessionEventSendParams{Events: []anthropic.BetaManagedAgentsEventParamsUnion{{
		OfUserMessage: &anthropic.BetaManagedAgentsUserMessageEventParams{
			Type: anthropic.BetaManagedAgentsUserMessageEventParamsTypeUserMessage,
			Content: []anthropic.BetaManagedAgentsUserMessageEventParamsContentUnion{{OfText: &anthropic.BetaManagedAgentsTextBlockParam{
				Type: anthropic.BetaManagedAgentsTextBlockTypeText, Text: "Say hello from a sandbox"}}},
		}}}})
	if err != nil {
		return fmt.Errorf("sending: %w", err)
	}
	for stream.Next() {
		event := stream.Current()
		switch event.Type {
		case "agent.message":
			for _, block := range event.AsAgentMessage().Content {
				fmt.Println(block.Text)
			}
		case "agent.tool_use":
			fmt.Printf("→ %s %v\n", event.Name, event.Input)
		case "session.error":
			return fmt.Errorf("the session reports: %s", event.Error.Message)
		case "session.status_idle":
			fmt.Println("the session rests:", event.StopReason.Type)
			return nil
		}
	}
	return stream.Err()
}
