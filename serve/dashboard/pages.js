// Every page of the dashboard, in order. A page is {id, name, mount}: mount(root, context) fills the root and returns {update, leave}.

import { learning } from "./pages/learning.js";
import { models } from "./pages/models.js";
import { now } from "./pages/now.js";
import { stream } from "./pages/stream.js";
import { system } from "./pages/system.js";
import { tryIt } from "./pages/try_it.js";

export const PAGES = [now, learning, models, tryIt, stream, system];
