// Renders templates as Ollama does (template/template.go): one JSON object {"template", "talks"} on standard input becomes a list of texts.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role, Content string
}

func main() {
	var input []struct {
		Template string
		Talks    [][]*message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	output := make([][]string, len(input))
	for i, one := range input {
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
		for _, talk := range one.Talks {
			var system []string
			for _, message := range talk {
				if message.Role == "system" {
					system = append(system, message.Content)
				}
			}
			var text bytes.Buffer
			data := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": talk, "Response": ""}
			if err := parsed.Execute(&text, data); err != nil {
				panic(err)
			}
			output[i] = append(output[i], text.String())
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(output); err != nil {
		panic(err)
	}
}
