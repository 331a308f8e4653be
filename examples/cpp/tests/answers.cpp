// What a part of the host computes by itself, as JSON, for tests to compare:
//   answers noise BUNDLE SEED SIZE...          the draws of a seed
//   answers schedule BUNDLE STAGE STEPS        rows and embeddings of so many even steps
//   answers tokens BUNDLE GRAPH PROMPT         ids and what was cut off
#include <iostream>
#include <nlohmann/json.hpp>

#include "bundle.hpp"
#include "noise.hpp"
#include "schedule.hpp"
#include "tokenizer.hpp"

using nlohmann::json;
using Words = std::vector<std::string>;

static json noise(const Bundle& bundle, const Words& words) {
    Noise noise(bundle.manifest().host.noise, static_cast<uint64_t>(std::stoll(words.at(2))));
    json draws = json::array();
    for (size_t i = 3; i < words.size(); ++i) draws.push_back(noise.draw({std::stoll(words[i])}).floats());
    return draws;
}

static json schedule(const Bundle& bundle, const Words& words) {
    const Denoiser& denoiser = bundle.manifest().sampling.denoiser(words.at(2));
    const ScheduleRules& rules = bundle.manifest().host.schedule;
    json answer{{"rows", json::array()}, {"embeddings", json::array()}};
    for (const Row& row : make_schedule(even_timesteps(std::stoll(words.at(3))), denoiser, rules)) {
        answer["rows"].push_back({row.t, row.a, row.b, row.c});
        answer["embeddings"].push_back(timestep_embedding(row.t, denoiser, rules));
    }
    return answer;
}

static json tokens(const Bundle& bundle, const Words& words) {
    const Encoding encoding = Tokenizer(bundle, words.at(2))(words.at(3));
    return {{"ids", encoding.ids}, {"mask", encoding.mask}, {"truncated", encoding.truncated}};
}

int main(int count, char** arguments) {
    try {
        const Words words(arguments + 1, arguments + count);
        const Bundle bundle(words.at(1), false);
        const auto answer = words[0] == "noise" ? noise : words[0] == "schedule" ? schedule : tokens;
        std::cout << answer(bundle, words) << "\n";
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
