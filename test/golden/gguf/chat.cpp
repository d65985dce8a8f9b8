// Renders conversations, one JSON object a line on standard input, with the chat template in a GGUF file, as llama.cpp's server does
// (common/chat.h). Each becomes a line: a JSON string, the begin of the text in front if the tokenizer puts it there, or null.
// Build: g++ -std=c++17 chat.cpp -I $LLAMA/common -I $LLAMA/include -I $LLAMA/ggml/include -L $BUILD/bin -lllama-common -lllama

#include "chat.h"
#include "json.h"
#include "llama.h"

#include <iostream>
#include <string>

int main(int, char ** arguments) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    auto settings = llama_model_default_params();
    settings.vocab_only = true;
    auto * model = llama_model_load_from_file(arguments[1], settings);
    if (!model) return 1;
    const auto * vocabulary = llama_model_get_vocab(model);
    const std::string begin = llama_vocab_get_add_bos(vocabulary) ? llama_vocab_get_text(vocabulary, llama_vocab_bos(vocabulary)) : "";
    const auto templates = common_chat_templates_init(model, "");
    for (std::string line; std::getline(std::cin, line);) {
        common_json text;
        try {
            const auto conversation = common_json::parse(line);
            common_chat_templates_inputs inputs;
            inputs.messages = common_chat_msgs_parse_oaicompat(conversation.at("messages"));
            if (conversation.contains("tools")) inputs.tools = common_chat_tools_parse_oaicompat(conversation.at("tools"));
            inputs.add_generation_prompt = conversation.contains("add_generation_prompt");
            text = begin + common_chat_templates_apply(templates.get(), inputs).prompt;
        } catch (const std::exception &) {
            // The template refuses the conversation: null.
        }
        std::cout << text.dump() << "\n";
    }
}
