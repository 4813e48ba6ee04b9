// Asks a server for pictures with OpenAI's client, and prints what came as JSON: node openai_client.cjs URL IMAGE
const fs = require('fs');
const OpenAI = require('openai');

async function main(baseURL, image) {
  const client = new OpenAI({ baseURL, apiKey: 'x', maxRetries: 0 });
  const models = (await client.models.list()).data.map((model) => model.id);
  const own = { seed: 5, steps: 1, sampler: 'euler' };
  const answer = await client.images.generate({ prompt: 'a lighthouse', n: 2, size: '64x64', ...own });
  const pictures = answer.data.map((picture) => picture.b64_json);
  const events = [];
  const stream = await client.images.generate({
    prompt: 'a bird', size: '64x64', stream: true, partial_images: 1, seed: 2, steps: 3,
  });
  for await (const event of stream) events.push(event.type);
  const file = await OpenAI.toFile(fs.readFileSync(image), 'image.png', { type: 'image/png' });
  const edit = await client.images.edit({ image: file, prompt: 'a sky', strength: 0.5, seed: 5, steps: 2 });
  let error = null;
  try {
    await client.images.generate({ prompt: 'a', model: 'no-such-model' });
  } catch (problem) {
    error = { status: problem.status, code: problem.code, param: problem.param };
  }
  console.log(JSON.stringify({ models, pictures, events, edited: edit.data[0].b64_json, error }));
}

main(process.argv[2], process.argv[3]).catch((problem) => {
  console.error(String(problem));
  process.exit(1);
});
